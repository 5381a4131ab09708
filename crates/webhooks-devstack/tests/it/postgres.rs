use webhooks_devstack::{Postgres, is_running};

use crate::gone;

#[tokio::test]
async fn committed_rows_survive_a_kill_on_the_same_port() {
    let folder = tempfile::tempdir().unwrap();
    let mut postgres = Postgres::builder(folder.path()).start().await.unwrap();
    let url = postgres.create_database("shop").await.unwrap();
    postgres
        .sql(
            "shop",
            "CREATE TABLE orders (id int); INSERT INTO orders VALUES (1), (2)",
        )
        .await
        .unwrap();
    let first_pid = postgres.pid().unwrap();

    postgres.kill().await.unwrap();
    assert!(!is_running(first_pid));
    postgres.sql("shop", "SELECT 1").await.unwrap_err();
    postgres.start().await.unwrap();

    assert_eq!(postgres.url("shop"), url);
    assert_eq!(
        postgres
            .sql("shop", "SELECT count(*) FROM orders")
            .await
            .unwrap(),
        "2"
    );
    postgres.stop().await.unwrap();
    postgres.start().await.unwrap();
    assert_eq!(
        postgres
            .sql("shop", "SELECT count(*) FROM orders")
            .await
            .unwrap(),
        "2"
    );
    assert_eq!(postgres.sql("shop", "SHOW fsync").await.unwrap(), "on");
}

#[tokio::test]
async fn a_kill_takes_busy_backends_too() {
    let folder = tempfile::tempdir().unwrap();
    let mut postgres = Postgres::builder(folder.path())
        .fast()
        .start()
        .await
        .unwrap();
    let busy = "SELECT count(*) FROM generate_series(1, 100000000000)";
    let asking = postgres.sql("postgres", busy);
    let backend = async {
        webhooks_devstack::wait_until("the backend to be busy", crate::LIMIT, async || {
            let running = "SELECT pid FROM pg_stat_activity WHERE query LIKE '%generate_series%' AND pid <> pg_backend_pid()";
            let pid = postgres.sql("postgres", running).await.unwrap();
            pid.parse::<u32>().map_err(|_| pid)
        })
        .await
        .unwrap()
    };
    let pid = tokio::select! {
        answer = asking => panic!("it was to take longer: {answer:?}"),
        pid = backend => pid,
    };
    postgres.kill().await.unwrap();
    assert!(!is_running(pid));
    postgres.start().await.unwrap();
}

#[tokio::test]
async fn a_killed_server_leaves_its_shared_memory_in_its_own_folder() {
    let folder = tempfile::tempdir().unwrap();
    let mut postgres = Postgres::builder(folder.path())
        .fast()
        .start()
        .await
        .unwrap();
    postgres.kill().await.unwrap();
    let kept = std::fs::read_dir(folder.path().join("data/pg_dynshmem"))
        .unwrap()
        .count();
    assert!(kept > 0, "it keeps its shared memory elsewhere");
    postgres.start().await.unwrap();
}

#[tokio::test]
async fn databases_are_made_copied_and_dropped() {
    let folder = tempfile::tempdir().unwrap();
    let postgres = Postgres::builder(folder.path())
        .fast()
        .start()
        .await
        .unwrap();
    postgres.create_database("template_a").await.unwrap();
    postgres
        .sql("template_a", "CREATE TABLE things (id int)")
        .await
        .unwrap();
    let url = postgres
        .create_database_from("copy", "template_a")
        .await
        .unwrap();
    assert!(url.ends_with("/copy"), "{url}");
    assert_eq!(
        postgres
            .sql("copy", "SELECT count(*) FROM things")
            .await
            .unwrap(),
        "0"
    );
    postgres.create_database("copy").await.unwrap_err();
    assert_eq!(postgres.ensure_database("copy").await.unwrap(), url);
    postgres.drop_database("copy").await.unwrap();
    postgres.sql("copy", "SELECT 1").await.unwrap_err();

    let pid = postgres.pid().unwrap();
    drop(postgres);
    gone(&[pid]).await;
}
