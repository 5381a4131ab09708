//! Messages that nobody means, to every method of gRPC: fields of the wrong kind, words and numbers that
//! are none, a hundred thousand of what may be repeated, and bytes that end early.

use std::collections::BTreeMap;

use http::uri::PathAndQuery;
use tonic::{Code, Status, client::Grpc, transport::Channel};
use tonic_types::StatusExt as _;
use webhooks_devstack::nonsense::{Maker, flood};

use crate::{
    document::Stage,
    methods::{Method, Raw, messages, methods},
    support::{OPERATOR_TOKEN, World, with_token},
};

/// Messages to each method.
const EACH: u32 = 150;

/// Methods after which something is not there any more: they come last, when everything else has been
/// asked about what is there.
pub(crate) const ENDS: [&str; 3] = ["Delete", "Revoke", "Cancel"];

async fn send(
    channel: &Channel,
    method: &Method,
    token: &str,
    message: Vec<u8>,
) -> Result<Vec<u8>, Status> {
    let token = match method.operator {
        true => OPERATOR_TOKEN,
        false => token,
    };
    let mut grpc = Grpc::new(channel.clone());
    grpc.ready().await.unwrap();
    let path = PathAndQuery::try_from(method.path.as_str()).unwrap();
    let answer = grpc.unary(with_token(token, message), path, Raw).await?;
    Ok(answer.into_inner())
}

/// What an answer to nonsense may say: nothing that means a mistake of ours.
fn is_fair(answer: &Result<Vec<u8>, Status>) -> bool {
    let Err(status) = answer else { return true };
    let details = status.get_error_details();
    // The change is done; a machine that stands still has not told everybody in time.
    if details
        .error_info()
        .is_some_and(|info| info.reason == "CHANGE_PENDING")
    {
        return true;
    }
    let ours = [
        Code::Internal,
        Code::Unknown,
        Code::DataLoss,
        Code::Unavailable,
    ];
    !ours.contains(&status.code())
}

#[tokio::test]
async fn whatever_a_message_holds_no_method_fails_over_it() {
    let world = World::start().await;
    let channel = world.channel().await;
    let stage = Stage::set(&world).await;
    let token = stage.workspace.token.as_str();
    let ids = vec![
        stage.webhook.to_string(),
        stage.delivery.to_string(),
        stage.event.clone(),
        stage.job.to_string(),
    ];
    let mut maker = Maker::new(23, messages(), ids);
    let (mut codes, mut floods) = (BTreeMap::<String, u32>::new(), 0);
    let mut methods = methods();
    methods.retain(|method| !method.streams);
    methods.sort_by_key(|method| ENDS.iter().any(|word| method.name.starts_with(word)));
    let mut found = 0;
    for method in &methods {
        let name = method.name.as_str();
        let mut has_found = false;
        for n in 0..EACH {
            let message = maker.request(&method.request);
            let answer = send(&channel, method, token, message.clone()).await;
            assert!(
                is_fair(&answer),
                "{name} ({n}): {answer:?} to {message:02x?}"
            );
            let code = answer.map_or_else(|status| status.code(), |_| Code::Ok);
            has_found |= ![Code::InvalidArgument, Code::NotFound].contains(&code);
            *codes.entry(format!("{code:?}")).or_default() += 1;
        }
        found += u32::from(has_found);
        if let Some(message) = flood(&method.request) {
            let answer = send(&channel, method, token, message).await;
            assert!(is_fair(&answer), "{name}: a flood: {answer:?}");
            floods += 1;
        }
    }
    // Nonsense of all kinds: some was refused, some was harmless, and some did something.
    for code in ["InvalidArgument", "NotFound", "Ok"] {
        assert!(
            codes.get(code).is_some_and(|count| *count > 100),
            "{codes:?}"
        );
    }
    assert!(floods > 3, "{floods}");
    // Most came as far as to something that is there.
    let asked = u32::try_from(methods.len()).unwrap();
    assert!(found > asked / 2, "{found} of {asked} methods");
    let well = world.get("/v1/webhooks", token).await;
    assert_eq!(well.status, 200, "{well:?}");
}
