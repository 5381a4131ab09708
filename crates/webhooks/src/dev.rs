//! `webhooks dev`: the four services in this one process, for a debugger or a profiler.
//!
//! It reads the same settings from the environment as the services do; where a service would be told
//! where another one is, that must be set too (`WEBHOOKS_MANAGEMENT_GRPC_URL` and
//! `WEBHOOKS_GRPC_ADDR`). Readiness and addresses carry the services' names. When one of them fails,
//! all of them stop.

use std::process::ExitCode;

use webhooks_fanout::FanoutService;
use webhooks_ingest::Ingest;
use webhooks_runtime::{Context, Env, Settings};

/// The settings of all four.
struct Config {
    ingest: webhooks_ingest::Config,
    fanout: webhooks_fanout::Config,
    dispatcher: webhooks_dispatcher::Config,
    management: webhooks_management::Config,
}

impl Settings for Config {
    fn read(env: &mut Env) -> Self {
        Self {
            ingest: Settings::read(env),
            fanout: Settings::read(env),
            dispatcher: Settings::read(env),
            management: Settings::read(env),
        }
    }
}

/// Runs until a signal.
pub(crate) fn run() -> ExitCode {
    webhooks_runtime::run("dev", |config: Config, ctx: Context| async move {
        ctx.started();
        let ingest = together(&ctx, "ingest", |ctx| async move {
            Ok(Ingest::build(config.ingest, &ctx).await?.run(ctx).await?)
        });
        let fanout = together(&ctx, "fanout", |ctx| async move {
            Ok(FanoutService::build(config.fanout, &ctx)
                .await?
                .run(ctx)
                .await?)
        });
        let dispatcher = together(&ctx, "dispatcher", |ctx| {
            webhooks_dispatcher::run(config.dispatcher, ctx)
        });
        let management = together(&ctx, "management", |ctx| {
            webhooks_management::serve(config.management, ctx)
        });
        let (ingest, fanout, dispatcher, management) = tokio::join!(
            Box::pin(ingest),
            Box::pin(fanout),
            Box::pin(dispatcher),
            Box::pin(management)
        );
        ingest.and(fanout).and(dispatcher).and(management)
    })
}

/// Runs one of them; when it ends, however, so do the others.
async fn together<F>(
    ctx: &Context,
    name: &str,
    serve: impl FnOnce(Context) -> F,
) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<()>>,
{
    let result = serve(ctx.scoped(name)).await;
    ctx.shutdown.cancel();
    result.map_err(|error| error.context(name.to_owned()))
}
