//! The binary `webhooks-ingest`; everything is in the library.

use webhooks_ingest::{Config, Ingest};

fn main() -> std::process::ExitCode {
    webhooks_runtime::run("ingest", async |config: Config, ctx| {
        let ingest = Ingest::build(config, &ctx).await?;
        ingest.run(ctx).await?;
        Ok(())
    })
}
