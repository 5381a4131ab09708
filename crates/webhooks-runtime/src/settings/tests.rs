use std::{net::SocketAddr, time::Duration};

use super::{Address, Env, SECRET_FILE_MAX_BYTES};

#[test]
fn every_problem_is_reported_at_once() {
    let mut env = Env::from_vars([
        ("WEBHOOKS_COUNT", "many"),
        ("WEBHOOKS_WAIT", "30"),
        ("WEBHOOKS_FLAG", "perhaps"),
        ("WEBHOOKS_PORT", "70000"),
    ]);
    env.parse("WEBHOOKS_COUNT", 3_u32, "how many");
    env.duration("WEBHOOKS_WAIT", "1s", "how long");
    env.bool("WEBHOOKS_FLAG", false, "whether");
    env.ranged("WEBHOOKS_PORT", 80_u32, 1..=65_535, "where");
    env.required("WEBHOOKS_URL", "what");
    env.secret("WEBHOOKS_KEY", "who");
    let error = env.finish().unwrap_err();
    let names: Vec<_> = error
        .problems
        .iter()
        .filter_map(|problem| problem.split(':').next())
        .collect();
    let expected = [
        "WEBHOOKS_COUNT",
        "WEBHOOKS_WAIT",
        "WEBHOOKS_FLAG",
        "WEBHOOKS_PORT",
        "WEBHOOKS_URL",
        "WEBHOOKS_KEY",
    ];
    assert_eq!(names, expected);
    assert!(
        error
            .to_string()
            .starts_with("6 problems with the settings:\n  WEBHOOKS_COUNT: "),
        "{error}"
    );
}

#[test]
fn values_come_from_the_environment_and_else_from_the_default() {
    let mut env = Env::from_vars([
        ("WEBHOOKS_A", " text "),
        ("WEBHOOKS_B", ""),
        ("WEBHOOKS_C", "1h 30m"),
        ("WEBHOOKS_D", "on"),
        ("WEBHOOKS_E", "x, y,,z"),
        ("WEBHOOKS_F", "127.0.0.1:9"),
    ]);
    assert_eq!(env.string("WEBHOOKS_A", "other", ""), "text");
    assert_eq!(
        env.string("WEBHOOKS_B", "default", ""),
        "default",
        "empty is unset"
    );
    assert_eq!(
        env.duration("WEBHOOKS_C", "1s", ""),
        Duration::from_secs(5400)
    );
    assert_eq!(
        env.duration("WEBHOOKS_C2", "250ms", ""),
        Duration::from_millis(250)
    );
    assert!(env.bool("WEBHOOKS_D", false, ""));
    assert_eq!(env.list("WEBHOOKS_E", "", ""), ["x", "y", "z"]);
    assert_eq!(env.parsed_list::<u16>("WEBHOOKS_E2", "1,2", ""), [1, 2]);
    assert_eq!(
        env.socket_addr("WEBHOOKS_F", "0.0.0.0:80", ""),
        "127.0.0.1:9".parse::<SocketAddr>().unwrap()
    );
    assert_eq!(env.optional("WEBHOOKS_G", ""), None);
    assert_eq!(env.parse_optional::<u8>("WEBHOOKS_H", ""), None);
    assert_eq!(env.ranged("WEBHOOKS_I", 7_u8, 1..=9, ""), 7);
    assert!(env.list("WEBHOOKS_J", "", "").is_empty());
    env.finish().unwrap();
}

#[test]
fn bounds_of_durations_hold_for_the_default_too() {
    let second = Duration::from_secs(1);
    let mut env = Env::from_vars([("WEBHOOKS_A", "2s")]);
    env.duration_ranged("WEBHOOKS_A", "1s", second..=second, "");
    env.duration_ranged("WEBHOOKS_B", "3s", second..=second, "");
    let problems = env.finish().unwrap_err().problems;
    assert_eq!(
        problems,
        [
            "WEBHOOKS_A: 2s is outside 1s to 1s",
            "WEBHOOKS_B: 3s is outside 1s to 1s"
        ]
    );
}

#[test]
fn an_address_that_nobody_could_call_is_a_problem_like_any_other() {
    let mut env = Env::from_vars([
        ("WEBHOOKS_A", "::"),
        ("WEBHOOKS_B", "mysql://u:hunter2@x"),
        ("WEBHOOKS_C", "http://hunter2"),
        ("WEBHOOKS_D", "example.org"),
        ("WEBHOOKS_E", "nats://:hunter2@"),
    ]);
    env.url("WEBHOOKS_A", "http://127.0.0.1:1", "");
    env.secret_address("WEBHOOKS_B", Address::Postgres, "");
    env.secret_address_or("WEBHOOKS_C", Address::Nats, "nats://a", "");
    env.optional_url("WEBHOOKS_D", "");
    env.optional_secret_address("WEBHOOKS_E", Address::Nats, "");
    let problems = env.finish().unwrap_err().problems;
    let named: Vec<_> = problems
        .iter()
        .filter_map(|problem| problem.split(':').next())
        .collect();
    let expected = [
        "WEBHOOKS_A",
        "WEBHOOKS_B",
        "WEBHOOKS_C",
        "WEBHOOKS_D",
        "WEBHOOKS_E",
    ];
    assert_eq!(named, expected);
    assert!(!problems.join("").contains("hunter2"), "{problems:?}");
}

#[test]
fn addresses_are_taken_and_one_that_is_missing_is_told_of_once() {
    let mut env = Env::from_vars([("WEBHOOKS_A", "https://a.example:9")]);
    assert_eq!(env.url("WEBHOOKS_A", "http://b", ""), "https://a.example:9");
    assert_eq!(env.url("WEBHOOKS_B", "http://b", ""), "http://b");
    assert_eq!(env.optional_url("WEBHOOKS_C", ""), None);
    let default = env.secret_address_or("WEBHOOKS_D", Address::Nats, "nats://a:4222", "");
    assert_eq!(default.expose(), "nats://a:4222");
    assert_eq!(
        env.optional_secret_address("WEBHOOKS_E", Address::Postgres, ""),
        None
    );
    env.finish().unwrap();
    env.secret_address("WEBHOOKS_F", Address::Postgres, "");
    assert_eq!(env.finish().unwrap_err().problems.len(), 1);
}

#[test]
fn each_entry_of_a_list_that_is_wrong_is_named() {
    let mut env = Env::from_vars([("WEBHOOKS_A", "1, x, 2, 70000")]);
    assert!(env.parsed_list::<u16>("WEBHOOKS_A", "", "").is_empty());
    let problems = env.finish().unwrap_err().problems;
    assert_eq!(problems.len(), 1);
    for named in ["WEBHOOKS_A: ", "\"x\"", "\"70000\""] {
        assert!(problems[0].contains(named), "{problems:?}");
    }
}

#[test]
fn a_secret_is_never_shown() {
    let mut env = Env::from_vars([
        ("WEBHOOKS_KEY", "hunter2"),
        ("WEBHOOKS_URL", "postgres://u:hunter2@h/d"),
    ]);
    let secret = env.secret("WEBHOOKS_KEY", "the key");
    env.secret_or(
        "WEBHOOKS_URL",
        "postgres://localhost/webhooks",
        "the database",
    );
    assert_eq!(secret.expose(), "hunter2");
    for text in [
        format!("{secret:?}"),
        format!("{env:?}"),
        env.effective(),
        env.markdown(),
    ] {
        assert!(!text.contains("hunter2"), "{text}");
    }
    assert!(
        env.effective().contains("WEBHOOKS_KEY=***\n"),
        "{}",
        env.effective()
    );
}

#[test]
fn a_secret_may_come_from_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str, content: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let large = "x".repeat(usize::try_from(SECRET_FILE_MAX_BYTES).unwrap() + 1);
    let mut env = Env::from_vars([
        ("WEBHOOKS_GOOD_FILE", path("good", "hunter2\n")),
        ("WEBHOOKS_BOTH", "here".to_owned()),
        ("WEBHOOKS_BOTH_FILE", path("both", "there")),
        ("WEBHOOKS_GONE_FILE", "/nowhere/to/be/found".to_owned()),
        ("WEBHOOKS_EMPTY_FILE", path("empty", "\n")),
        ("WEBHOOKS_LARGE_FILE", path("large", &large)),
    ]);
    assert_eq!(env.secret("WEBHOOKS_GOOD", "").expose(), "hunter2");
    assert_eq!(env.optional_secret("WEBHOOKS_NONE", ""), None);
    env.finish().unwrap();
    for name in [
        "WEBHOOKS_BOTH",
        "WEBHOOKS_GONE",
        "WEBHOOKS_EMPTY",
        "WEBHOOKS_LARGE",
    ] {
        assert_eq!(env.optional_secret(name, ""), None);
    }
    assert_eq!(env.finish().unwrap_err().problems.len(), 4);
    assert!(env.unknown().is_empty(), "{:?}", env.unknown());
}

#[test]
fn unknown_variables_of_ours_are_named_and_others_are_not() {
    let mut env = Env::from_vars([
        ("WEBHOOKS_KNOWN", "1"),
        ("WEBHOOKS_KNWON", "1"),
        ("PATH", "/bin"),
    ]);
    env.string("WEBHOOKS_KNOWN", "", "");
    env.finish().unwrap();
    assert_eq!(env.unknown(), ["WEBHOOKS_KNWON"]);
}

#[test]
fn the_table_lists_each_setting_once_with_default_and_bounds() {
    let mut env = Env::from_vars([("WEBHOOKS_A", "5")]);
    env.ranged("WEBHOOKS_A", 3_u32, 1..=9, "how many a | b");
    env.ranged("WEBHOOKS_A", 3_u32, 1..=9, "how many a | b");
    env.required("WEBHOOKS_B", "a must");
    env.optional("WEBHOOKS_C", "a may");
    let expected = "| Variable | Default | Meaning |\n| --- | --- | --- |\n\
        | `WEBHOOKS_A` | `3` | how many a \\| b (1 to 9) |\n\
        | `WEBHOOKS_B` | required | a must |\n\
        | `WEBHOOKS_C` | none | a may |\n";
    assert_eq!(env.markdown(), expected);
    assert_eq!(
        env.effective(),
        "WEBHOOKS_A=5\n# WEBHOOKS_B=\n# WEBHOOKS_C=\n"
    );
}

#[test]
fn a_rule_across_settings_is_a_problem_like_any_other() {
    let mut env = Env::default();
    env.problem("WEBHOOKS_A", "must be below WEBHOOKS_B");
    env.problem("WEBHOOKS_A", "must be below WEBHOOKS_B");
    assert_eq!(
        env.finish().unwrap_err().to_string(),
        "1 problem with the settings:\n  WEBHOOKS_A: must be below WEBHOOKS_B"
    );
}
