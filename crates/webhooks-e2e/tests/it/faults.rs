//! A short crash run. `webhooks-loadgen faults` is the long one.

use webhooks_loadgen::faults::{FaultOptions, run};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_doubled_or_invented_while_processes_are_killed_under_load()
-> anyhow::Result<()> {
    let options = FaultOptions {
        bin_dir: super::bin_dir(),
        seed: 2,
        faults: 8,
        folder: None,
    };
    let outcome = run(&options, |line| println!("{line}")).await?;
    assert!(outcome.holds(), "{outcome}");
    Ok(())
}
