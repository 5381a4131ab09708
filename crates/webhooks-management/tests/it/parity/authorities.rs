//! Certificate authorities, and what anybody may look up.

use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
use reqwest::Method;
use serde_json::json;
use tonic::Code;
use uuid::Uuid;
use webhooks_domain::{event::parse_rfc3339_micros, webhook::Plan};
use webhooks_proto::v1::{
    self, webhook_service_client::WebhookServiceClient,
    workspace_service_client::WorkspaceServiceClient,
};

use crate::support::{World, fields, id_of, signed_body, webhook_body, with_token};

pub(crate) fn authority() -> String {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    params.self_signed(&key).unwrap().pem()
}

#[tokio::test]
async fn authorities_and_what_anybody_may_look_up_over_grpc() {
    let world = World::with(&[("WEBHOOKS_SOURCE_IPS", "203.0.113.16/28")]).await;
    let workspace = world.workspace(Plan::Enterprise).await;
    let token = workspace.token.as_str();
    let mut webhooks = WebhookServiceClient::new(world.channel().await);
    let (pem, other) = (authority(), authority());
    let set = |certificates: &str, key: &str| v1::SetCertificateAuthoritiesRequest {
        certificates: certificates.into(),
        idempotency_key: key.into(),
    };
    let first = webhooks.set_certificate_authorities(with_token(token, set(&pem, "1")));
    let first = first.await.unwrap().into_inner();
    assert_eq!(first.authorities.len(), 1);
    let second = webhooks.set_certificate_authorities(with_token(token, set(&other, "2")));
    second.await.unwrap();
    // Repeated, it is not done again.
    let again = webhooks.set_certificate_authorities(with_token(token, set(&pem, "1")));
    let again = again.await.unwrap();
    assert_eq!(again.metadata().get("idempotent-replayed").unwrap(), "true");
    assert_eq!(again.into_inner(), first);
    let get = v1::GetCertificateAuthoritiesRequest {};
    let found = webhooks.get_certificate_authorities(with_token(token, get));
    assert_eq!(found.await.unwrap().into_inner().certificates, other);
    // The same over REST.
    let key = [("idempotency-key", "1")];
    let wish = json!({ "certificates": pem });
    let path = "/v1/certificate-authorities";
    let put = world.write(Method::PUT, path, token, &key, &wish).await;
    assert_eq!(put.status, 422, "the key was used over gRPC: {put:?}");
    let key = [("idempotency-key", "3")];
    let put = world.write(Method::PUT, path, token, &key, &wish).await;
    let repeated = world.write(Method::PUT, path, token, &key, &wish).await;
    assert_eq!(repeated.headers["idempotent-replayed"], "true");
    assert_eq!((repeated.status, repeated.body), (put.status, put.body));
    let delete = v1::DeleteCertificateAuthoritiesRequest {};
    let deleted = webhooks.delete_certificate_authorities(with_token(token, delete));
    deleted.await.unwrap();
    let found = webhooks
        .get_certificate_authorities(with_token(token, get))
        .await;
    assert_eq!(found.unwrap().into_inner().certificates, "");

    let mut anybody = WorkspaceServiceClient::new(world.channel().await);
    let ips = anybody.get_source_ips(v1::GetSourceIpsRequest {}).await;
    let ips = ips.unwrap().into_inner();
    let rest = world.get("/.well-known/webhook-source-ips.json", "").await;
    assert_eq!(rest.body["version"], ips.version);
    assert_eq!(
        (ips.fixed, ips.ranges),
        (true, vec!["203.0.113.16/28".to_owned()])
    );
    let made = world.post(token, &signed_body("signed")).await;
    let keys = |webhook_id: String| v1::GetWebhookPublicKeysRequest { webhook_id };
    let found = anybody.get_webhook_public_keys(keys(id_of(&made).to_string()));
    let found = found.await.unwrap().into_inner();
    assert_eq!(made.body["webhook"]["publicKey"], found.keys[0].key);
    let rotate = |key: v1::RotatedKey, webhook_id: String| v1::RotateWebhookSecretRequest {
        webhook_id,
        key: key.into(),
        ..v1::RotateWebhookSecretRequest::default()
    };
    let pair = rotate(v1::RotatedKey::PublicKey, id_of(&made).to_string());
    let rotated = webhooks.rotate_webhook_secret(with_token(token, pair));
    let rotated = rotated.await.unwrap().into_inner();
    assert_eq!(rotated.secret, "");
    assert_eq!(rotated.webhook.unwrap().public_key, rotated.public_key);
    let asked = anybody.get_webhook_public_keys(keys(id_of(&made).to_string()));
    let both = asked.await.unwrap().into_inner().keys;
    let path = format!("/.well-known/webhook-public-keys/{}", id_of(&made));
    let rest = world.get(&path, "").await.body["keys"].clone();
    let names: Vec<_> = both.iter().map(|key| key.key.as_str()).collect();
    assert_eq!(names, [&rotated.public_key, &found.keys[0].key]);
    assert_eq!(json!(names), json!([rest[0]["key"], rest[1]["key"]]));
    assert!(both[0].expires_at.is_none() && rest[0].get("expiresAt").is_none());
    let (created, end) = (both[1].created_at.unwrap(), both[1].expires_at.unwrap());
    assert_eq!(Some(created), found.keys[0].created_at);
    let shown = parse_rfc3339_micros(rest[1]["expiresAt"].as_str().unwrap());
    let end = end.seconds * 1_000_000 + i64::from(end.nanos / 1_000);
    assert_eq!(shown.unwrap(), end);
    let secret = rotate(v1::RotatedKey::Secret, id_of(&made).to_string());
    let answer = webhooks.rotate_webhook_secret(with_token(token, secret));
    let answer = answer.await.unwrap().into_inner();
    assert!(answer.secret.starts_with("whsec_") && answer.public_key.is_empty());
    let bare = world.webhook(token).await.to_string();
    let mut odd = rotate(v1::RotatedKey::Secret, bare.clone());
    odd.key = 9;
    for wish in [rotate(v1::RotatedKey::PublicKey, bare), odd] {
        let refused = webhooks.rotate_webhook_secret(with_token(token, wish));
        let refused = refused.await.unwrap_err();
        assert_eq!(
            (refused.code(), fields(&refused)),
            (Code::InvalidArgument, vec!["key".to_owned()])
        );
    }
    let nobody = anybody.get_webhook_public_keys(keys(Uuid::new_v4().to_string()));
    assert_eq!(nobody.await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn a_remembered_token_of_a_deleted_workspace_is_no_fault_of_ours() {
    let world = World::start().await;
    let workspace = world.workspace(Plan::Enterprise).await;
    let token = workspace.token.as_str();
    assert_eq!(world.get("/v1/webhooks", token).await.status, 200);
    // By another process: this one remembers the token for some seconds.
    world.operator.delete_workspace(workspace.id).await.unwrap();
    let path = "/v1/certificate-authorities";
    let wish = json!({ "certificates": authority() });
    for reply in [
        world.write(Method::PUT, path, token, &[], &wish).await,
        world.delete(path, token).await,
        world.post(token, &webhook_body("late")).await,
    ] {
        assert_eq!(
            (reply.status.as_u16(), &reply.body["codeType"]),
            (401, &json!("UNAUTHENTICATED")),
            "{reply:?}"
        );
    }
}
