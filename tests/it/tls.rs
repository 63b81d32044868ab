//! The way to Okta is encrypted, and who answers is checked, by the certificates of the system; it goes by the
//! proxy of the environment.
//!
//! A TLS door stands before the mock org; its authority is one that nobody knows but this test.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::PrivatePkcs8KeyDer;

use crate::fixtures;
use crate::harness::{Launch, earliest, eventually, scratch};
use crate::mock_okta::{API_TOKEN, MockOkta};

/// The authority's certificate as PEM, and a door that speaks TLS as `localhost`.
fn authority() -> (String, TlsAcceptor) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &issuer).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
        )
        .unwrap();
    (issuer.pem(), TlsAcceptor::from(Arc::new(config)))
}

/// Hands what comes through the door to the mock, both ways.
async fn open(door: TlsAcceptor, listener: TcpListener, behind: String) {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let (door, behind) = (door.clone(), behind.clone());
        connections.spawn(async move {
            // A client that does not trust the certificate goes away.
            if let Ok(mut stream) = door.accept(stream).await {
                let mut org = TcpStream::connect(behind).await.unwrap();
                let _ = copy_bidirectional(&mut stream, &mut org).await;
            }
        });
    }
}

/// An org behind a door, and the file with the authority of who stands there.
struct Org {
    okta: MockOkta,
    dir: TempDir,
    authorities: String,
    port: u16,
    _doors: JoinSet<()>,
}

impl Org {
    async fn start() -> Self {
        let okta = MockOkta::start();
        for event in fixtures::mixed(0, 3) {
            okta.publish(&event);
        }
        let (pem, door) = authority();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let behind = okta.url().trim_start_matches("http://").to_owned();
        let mut doors = JoinSet::new();
        doors.spawn(open(door, listener, behind));
        let dir = scratch();
        let file = dir.path().join("authorities.pem");
        std::fs::write(&file, pem).unwrap();
        Self {
            okta,
            authorities: file.to_str().unwrap().to_owned(),
            dir,
            port,
            _doors: doors,
        }
    }

    /// A server that polls the org at a port of this machine.
    fn polled_at(&self, port: u16) -> Launch {
        Launch::on(&self.dir.path().join("data")).with_env(&[
            (
                "PROVIDENT_OKTA_ORG_URL",
                &format!("https://localhost:{port}"),
            ),
            ("PROVIDENT_OKTA_API_TOKEN", API_TOKEN),
            ("PROVIDENT_POLL_RETRY_DELAY", "10ms"),
        ])
    }
}

/// A proxy that leads to one place, wherever it is asked to: what it was asked for comes out.
async fn tunnel(listener: TcpListener, to: u16, asked: mpsc::Sender<String>) {
    let mut connections = JoinSet::new();
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        let asked = asked.clone();
        connections.spawn(async move {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            let head = String::from_utf8(head).unwrap();
            asked
                .send(head.lines().next().unwrap().to_owned())
                .await
                .unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
            let mut door = TcpStream::connect(("127.0.0.1", to)).await.unwrap();
            let _ = copy_bidirectional(&mut stream, &mut door).await;
        });
    }
}

#[tokio::test]
async fn the_way_to_the_org_goes_by_the_proxy_of_the_environment() {
    let org = Org::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = format!("http://{}", listener.local_addr().unwrap());
    let (asked, mut was_asked) = mpsc::channel(100);
    let mut tunnels = JoinSet::new();
    tunnels.spawn(tunnel(listener, org.port, asked));

    // Nobody listens there.
    let server = org
        .polled_at(1)
        .with_env(&[("SSL_CERT_FILE", &org.authorities), ("HTTPS_PROXY", &proxy)])
        .start()
        .await;
    eventually("the events", async || {
        (server.read_all(earliest()).await.len() == 3).then_some(())
    })
    .await;
    assert_eq!(
        was_asked.recv().await.unwrap(),
        "CONNECT localhost:1 HTTP/1.1"
    );
}

#[tokio::test]
async fn the_org_s_certificate_is_checked_by_the_system_s_authorities() {
    let org = Org::start().await;
    let launch = org.polled_at(org.port);
    let mut server = launch.start().await;
    eventually("a refused certificate", async || {
        let sources = server.sources().await;
        let error = &sources.last().unwrap().last_error;
        error.contains("certificate").then_some(())
    })
    .await;
    assert_eq!(
        org.okta.requests().len(),
        0,
        "somebody unknown got a request"
    );
    server.process.kill();

    let server = launch
        .with_env(&[("SSL_CERT_FILE", &org.authorities)])
        .start()
        .await;
    eventually("the events", async || {
        (server.read_all(earliest()).await.len() == 3).then_some(())
    })
    .await;
    assert_eq!(org.okta.violations(), Vec::<String>::new());
}
