//! The client against a server that misbehaves on request.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use futures::TryStreamExt as _;
use tokio::{net::TcpListener, time::Instant};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{
    Code, Request, Response, Status, async_trait,
    metadata::MetadataMap,
    transport::{Identity, Server, ServerTlsConfig},
};
use tonic_types::{ErrorDetails, StatusExt as _};
use webhooks_client::{Client, Options, Tls, v1};
use webhooks_proto::v1::{
    event_history_service_server::{EventHistoryService, EventHistoryServiceServer},
    job_service_server::{JobService, JobServiceServer},
    metrics_service_server::{MetricsService, MetricsServiceServer},
};

const TOKEN: &str = "lbk_test_token";

/// A server that is unavailable for the first so many calls.
#[derive(Clone, Default)]
struct Fake {
    unavailable: Arc<AtomicU32>,
    keys: Arc<Mutex<Vec<String>>>,
    /// Never answers figures.
    silent: bool,
}

impl Fake {
    fn refusing(times: u32) -> Self {
        Self {
            unavailable: Arc::new(AtomicU32::new(times)),
            ..Self::default()
        }
    }

    fn admit<T>(&self, request: &Request<T>) -> Result<(), Status> {
        let token = request.metadata().get("authorization");
        if token.is_none_or(|token| token != format!("Bearer {TOKEN}").as_str()) {
            return Err(Status::unauthenticated("who is it"));
        }
        let left = self
            .unavailable
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
                left.checked_sub(1)
            });
        match left {
            Ok(_) => Err(Status::unavailable("not at the moment")),
            Err(_) => Ok(()),
        }
    }

    async fn serve(self, tls: Option<ServerTlsConfig>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut server = Server::builder();
        if let Some(tls) = tls {
            server = server.tls_config(tls).unwrap();
        }
        let serving = server
            .add_service(MetricsServiceServer::new(self.clone()))
            .add_service(JobServiceServer::new(self.clone()))
            .add_service(EventHistoryServiceServer::new(self))
            .serve_with_incoming(TcpListenerStream::new(listener));
        #[expect(clippy::disallowed_methods, reason = "ends with the test's runtime")]
        tokio::spawn(serving);
        address
    }

    async fn client(self, options: impl FnOnce(Options) -> Options) -> Client {
        let address = self.serve(None).await;
        let wish = Options::new(format!("http://{address}"), TOKEN);
        Client::new(options(wish)).unwrap()
    }
}

#[async_trait]
impl MetricsService for Fake {
    async fn get_metrics(
        &self,
        request: Request<v1::GetMetricsRequest>,
    ) -> Result<Response<v1::GetMetricsResponse>, Status> {
        self.admit(&request)?;
        if self.silent {
            std::future::pending::<()>().await;
        }
        Ok(Response::new(v1::GetMetricsResponse::default()))
    }

    async fn get_usage(
        &self,
        request: Request<v1::GetUsageRequest>,
    ) -> Result<Response<v1::GetUsageResponse>, Status> {
        self.admit(&request)?;
        Ok(Response::new(v1::GetUsageResponse::default()))
    }
}

#[async_trait]
impl JobService for Fake {
    async fn create_job(
        &self,
        request: Request<v1::CreateJobRequest>,
    ) -> Result<Response<v1::CreateJobResponse>, Status> {
        let key = request.get_ref().idempotency_key.clone();
        self.keys.lock().unwrap().push(key);
        self.admit(&request)?;
        Ok(Response::new(v1::CreateJobResponse::default()))
    }

    async fn get_job(
        &self,
        _: Request<v1::GetJobRequest>,
    ) -> Result<Response<v1::GetJobResponse>, Status> {
        let mut details = ErrorDetails::new();
        details.set_error_info("JOB_NOT_FOUND", "webhooks.linkbreakers.com", []);
        details.add_bad_request_violation("id", "is none");
        let mut metadata = MetadataMap::new();
        metadata.insert("x-request-id", "r-7".parse().unwrap());
        Err(Status::with_error_details_and_metadata(
            Code::NotFound,
            "no such job",
            details,
            metadata,
        ))
    }

    async fn list_jobs(
        &self,
        _: Request<v1::ListJobsRequest>,
    ) -> Result<Response<v1::ListJobsResponse>, Status> {
        Err(Status::resource_exhausted("too many requests"))
    }

    async fn pause_job(
        &self,
        request: Request<v1::PauseJobRequest>,
    ) -> Result<Response<v1::GetJobResponse>, Status> {
        let key = request.get_ref().idempotency_key.clone();
        self.keys.lock().unwrap().push(key);
        self.admit(&request)?;
        Ok(Response::new(v1::GetJobResponse::default()))
    }

    async fn resume_job(
        &self,
        _: Request<v1::ResumeJobRequest>,
    ) -> Result<Response<v1::GetJobResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn cancel_job(
        &self,
        _: Request<v1::CancelJobRequest>,
    ) -> Result<Response<v1::GetJobResponse>, Status> {
        Err(Status::unimplemented(""))
    }
}

#[async_trait]
impl EventHistoryService for Fake {
    async fn get_event(
        &self,
        _: Request<v1::GetEventRequest>,
    ) -> Result<Response<v1::GetEventResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    /// Seven events, by their number.
    async fn list_events(
        &self,
        request: Request<v1::ListEventsRequest>,
    ) -> Result<Response<v1::ListEventsResponse>, Status> {
        self.admit(&request)?;
        let request = request.into_inner();
        let from: i32 = request.page_token.parse().unwrap_or(0);
        let to = (from + request.page_size).min(7);
        let events = (from..to).map(|number| v1::Event {
            id: number.to_string(),
            ..v1::Event::default()
        });
        Ok(Response::new(v1::ListEventsResponse {
            events: events.collect(),
            next_page_token: if to < 7 {
                to.to_string()
            } else {
                String::new()
            },
            ..v1::ListEventsResponse::default()
        }))
    }
}

#[tokio::test]
async fn what_is_unavailable_is_asked_again_and_not_for_ever() {
    let ask = v1::GetMetricsRequest::default;
    let patient = Fake::refusing(2).client(|options| options).await;
    patient.get_metrics(ask()).await.unwrap();
    let fake = Fake::refusing(5);
    let left = Arc::clone(&fake.unavailable);
    let hasty = fake.client(|options| options.tries(2)).await;
    let error = hasty.get_metrics(ask()).await.unwrap_err();
    assert_eq!(error.code(), Code::Unavailable);
    assert_eq!(error.refusal().unwrap().tries, 2);
    assert_eq!(left.load(Ordering::SeqCst), 3);
    // A server that is not there is unavailable too.
    let nobody = Options::new("http://127.0.0.1:1", TOKEN).tries(2);
    let error = Client::new(nobody).unwrap().get_metrics(ask()).await;
    assert_eq!(error.unwrap_err().refusal().unwrap().tries, 2);
}

#[tokio::test]
async fn what_is_made_has_one_key_over_all_tries() {
    let fake = Fake::refusing(2);
    let keys = Arc::clone(&fake.keys);
    let client = fake.client(|options| options).await;
    let wish = v1::CreateJobRequest::default;
    client.create_job(wish()).await.unwrap();
    client.create_job(wish()).await.unwrap();
    let own = v1::CreateJobRequest {
        idempotency_key: "mine".to_owned(),
        ..wish()
    };
    client.create_job(own).await.unwrap();
    let keys = keys.lock().unwrap().clone();
    let [first, second, third, other, own] = keys.as_slice() else {
        panic!("{keys:?}")
    };
    assert!(!first.is_empty());
    assert_eq!((first, first), (second, third));
    assert_ne!(other, first);
    assert_eq!(own, "mine");
}

#[tokio::test]
async fn what_is_changed_has_one_key_over_all_tries() {
    let fake = Fake::refusing(1);
    let keys = Arc::clone(&fake.keys);
    let client = fake.client(|options| options).await;
    let job = v1::PauseJobRequest::default();
    client.pause_job(job).await.unwrap();
    let keys = keys.lock().unwrap().clone();
    let [first, second] = keys.as_slice() else {
        panic!("{keys:?}")
    };
    assert!(!first.is_empty());
    assert_eq!(first, second);
}

#[tokio::test]
async fn a_call_ends_with_its_deadline() {
    const DEADLINE: Duration = Duration::from_millis(200);
    let fake = Fake {
        silent: true,
        ..Fake::default()
    };
    let client = fake.client(|options| options.deadline(DEADLINE)).await;
    let begun = Instant::now();
    let error = client.get_metrics(v1::GetMetricsRequest::default()).await;
    assert_eq!(error.unwrap_err().code(), Code::DeadlineExceeded);
    let took = begun.elapsed();
    assert!(took >= DEADLINE && took < 100 * DEADLINE, "{took:?}");
}

#[tokio::test]
async fn a_list_is_a_stream_over_its_pages_and_ends_with_an_error() {
    let client = Fake::refusing(1).client(|options| options).await;
    let by_three = v1::ListEventsRequest {
        page_size: 3,
        ..v1::ListEventsRequest::default()
    };
    let events: Vec<_> = client.events(by_three).try_collect().await.unwrap();
    let ids: Vec<_> = events.iter().map(|event| event.id.as_str()).collect();
    assert_eq!(ids, ["0", "1", "2", "3", "4", "5", "6"]);
    let jobs = client.jobs(v1::ListJobsRequest::default());
    let error = jobs.try_collect::<Vec<_>>().await.unwrap_err();
    assert_eq!(error.code(), Code::ResourceExhausted);
    assert_eq!(
        error.refusal().unwrap().tries,
        1,
        "limits are not waited for"
    );
}

#[tokio::test]
async fn a_refusal_tells_its_word_its_fields_and_its_request() {
    let client = Fake::default().client(|options| options).await;
    let error = client.get_job(v1::GetJobRequest::default()).await;
    let error = error.unwrap_err();
    let refusal = error.refusal().unwrap();
    assert_eq!(refusal.reason, "JOB_NOT_FOUND");
    assert_eq!(refusal.request_id, "r-7");
    assert_eq!(refusal.violations[0].field, "id");
    assert_eq!(error.to_string(), "no such job (NotFound)");
    let stranger = Client::new(Options::new("http://127.0.0.1:9", "no\ntoken"));
    assert!(matches!(stranger, Err(webhooks_client::Error::Token)));
}

#[tokio::test]
async fn a_server_is_believed_by_its_authority() {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    let identity = Identity::from_pem(&certificate, &key);
    let tls = ServerTlsConfig::new().identity(identity);
    let address = Fake::default().serve(Some(tls)).await;
    let options = |tls| {
        let url = format!("https://localhost:{}", address.port());
        Options::new(url, TOKEN).tries(1).tls(tls)
    };
    let own = Tls {
        authorities: Some(certificate.into_bytes()),
        ..Tls::default()
    };
    let ask = v1::GetMetricsRequest::default;
    let trusting = Client::new(options(own.clone())).unwrap();
    trusting.get_metrics(ask()).await.unwrap();
    let elsewhere = Tls {
        server_name: Some("other.example".to_owned()),
        ..own
    };
    let wary = Client::new(options(elsewhere)).unwrap();
    let error = wary.get_metrics(ask()).await.unwrap_err();
    assert_eq!(error.code(), Code::Unavailable, "{error}");
}
