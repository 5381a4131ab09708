//! Who may report: certificates of our own authority with a name on the list, nobody else.

use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType,
};
use tonic::{
    Code, Status,
    transport::{Certificate, Channel, ClientTlsConfig, Identity},
};
use webhooks_domain::webhook::Plan;
use webhooks_proto::{
    internal::v1::{RecordedRequest, report_service_client::ReportServiceClient},
    v1::{ListWebhooksRequest, webhook_service_client::WebhookServiceClient},
};

use crate::support::{INTERNAL_TOKEN, World, with_token};

const NAME: &str = "spiffe://linkbreakers.test/dispatcher";

/// A throw-away authority.
struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// Certificate and key, both PEM.
type Pair = (String, String);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        let issuer = Issuer::new(params, key);
        Self { pem, issuer }
    }

    fn issue(&self, mut params: CertificateParams) -> Pair {
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ClientAuth,
            ExtendedKeyUsagePurpose::ServerAuth,
        ];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    fn server(&self) -> Pair {
        self.issue(CertificateParams::new(vec!["management.internal".to_owned()]).unwrap())
    }

    fn client(&self, name: &str) -> Pair {
        self.issue(named(name))
    }

    fn expired_client(&self, name: &str) -> Pair {
        let mut params = named(name);
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2021, 1, 1);
        self.issue(params)
    }
}

fn named(uri: &str) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
    params
}

/// A service that asks for certificates, and the authority it trusts.
async fn guarded() -> (World, Authority, tempfile::TempDir) {
    webhooks_runtime::install_tls_provider();
    let authority = Authority::new();
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = authority.server();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let world = World::with(&[
        ("WEBHOOKS_GRPC_TLS_CERT", &file("server.pem", &certificate)),
        ("WEBHOOKS_GRPC_TLS_KEY", &file("server.key", &key)),
        (
            "WEBHOOKS_GRPC_TLS_CLIENT_CA",
            &file("ca.pem", &authority.pem),
        ),
        ("WEBHOOKS_GRPC_TLS_CLIENT_NAMES", NAME),
    ])
    .await;
    (world, authority, folder)
}

async fn channel(world: &World, authority: &Authority, client: Option<Pair>) -> Channel {
    let mut tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(&authority.pem))
        .domain_name("management.internal");
    if let Some((certificate, key)) = client {
        tls = tls.identity(Identity::from_pem(certificate, key));
    }
    let address = world.context.announcer.addresses()["grpc"];
    Channel::from_shared(format!("https://{address}"))
        .unwrap()
        .tls_config(tls)
        .unwrap()
        .connect_lazy()
}

async fn report(channel: Channel, token: &str) -> Result<(), Status> {
    let request = RecordedRequest {
        delivery_ids: Vec::new(),
    };
    ReportServiceClient::new(channel)
        .recorded(with_token(token, request))
        .await
        .map(|_| ())
}

#[tokio::test]
async fn only_a_certificate_of_our_authority_with_a_name_on_the_list_may_report() {
    let (world, ours, _folder) = guarded().await;
    let theirs = Authority::new();
    for (what, client, token, expected) in [
        (
            "the right one",
            Some(ours.client(NAME)),
            INTERNAL_TOKEN,
            Code::Ok,
        ),
        ("none", None, INTERNAL_TOKEN, Code::Unauthenticated),
        (
            "right authority, wrong name",
            Some(ours.client("spiffe://linkbreakers.test/fanout")),
            INTERNAL_TOKEN,
            Code::PermissionDenied,
        ),
        (
            "the right one without the token",
            Some(ours.client(NAME)),
            "another-token-of-16",
            Code::Unauthenticated,
        ),
        // These do not get as far as a call.
        (
            "wrong authority",
            Some(theirs.client(NAME)),
            INTERNAL_TOKEN,
            Code::Unavailable,
        ),
        (
            "expired",
            Some(ours.expired_client(NAME)),
            INTERNAL_TOKEN,
            Code::Unavailable,
        ),
    ] {
        let answer = report(channel(&world, &ours, client).await, token).await;
        let code = answer.as_ref().map_or_else(Status::code, |()| Code::Ok);
        // A refused handshake reaches the client as a broken connection, by whichever end is faster.
        let code = if code == Code::Unknown {
            Code::Unavailable
        } else {
            code
        };
        assert_eq!(code, expected, "{what}: {answer:?}");
    }
}

#[tokio::test]
async fn customers_need_no_certificate_and_nobody_is_served_unencrypted() {
    let (world, ours, _folder) = guarded().await;
    let workspace = world.workspace(Plan::Enterprise).await;
    let list = |channel| async {
        WebhookServiceClient::new(channel)
            .list_webhooks(with_token(&workspace.token, ListWebhooksRequest::default()))
            .await
    };
    list(channel(&world, &ours, None).await).await.unwrap();
    // A client that trusts another authority does not talk to us.
    let stranger = Authority::new();
    let refused = list(channel(&world, &stranger, None).await)
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    let address = world.context.announcer.addresses()["grpc"];
    let plain = Channel::from_shared(format!("http://{address}"))
        .unwrap()
        .connect_lazy();
    list(plain).await.unwrap_err();
}

#[tokio::test]
async fn without_certificates_the_internal_token_is_asked_for() {
    let world = World::start().await;
    report(world.channel().await, INTERNAL_TOKEN).await.unwrap();
    let refused = report(world.channel().await, "another-token-of-16")
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
}
