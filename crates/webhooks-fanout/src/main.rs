//! The binary `webhooks-fanout`; everything is in the library.

use webhooks_fanout::{Config, FanoutService};

fn main() -> std::process::ExitCode {
    webhooks_runtime::run("fanout", async |config: Config, ctx| {
        let fanout = FanoutService::build(config, &ctx).await?;
        fanout.run(ctx).await?;
        Ok(())
    })
}
