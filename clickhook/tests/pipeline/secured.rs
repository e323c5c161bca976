//! A Kafka that asks who its clients are: by TLS with certificates of both sides, and by TLS
//! with each way to log in. The pipeline runs on it, and a client that is refused says why.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener},
    path::Path,
    process::Stdio,
    thread,
};

use engines::{Engines, Options, SecureListeners};
use testbed::certificates::{Certificates, ClientSettings};
use tokio::runtime::Runtime;

use crate::{
    roles::Installation,
    support::{ClickReceiver, PipelineApi, Visitors, check_promise, folder, set_up, until_redirects},
};

const USER: &str = "clickhook";
const PASSWORD: &str = "correct-horse-battery";
/// A user who may do nothing.
const STRANGER: &str = "stranger";

/// Returns the settings of a client that logs in by a mechanism.
fn with_password(certificates: &Certificates, mechanism: &str, password: &str) -> ClientSettings {
    certificates.by_login(mechanism, USER, password)
}

fn by_token(certificates: &Certificates, tokens: SocketAddr) -> ClientSettings {
    let mut settings = certificates.trusted("sasl_ssl");
    settings.extend([
        ("CLICKHOOK_KAFKA_PROPERTIES_SASL_MECHANISM", "OAUTHBEARER".to_owned()),
        ("CLICKHOOK_KAFKA_PROPERTIES_SASL_OAUTHBEARER_METHOD", "oidc".to_owned()),
        ("CLICKHOOK_KAFKA_PROPERTIES_SASL_OAUTHBEARER_CLIENT_ID", USER.to_owned()),
        ("CLICKHOOK_KAFKA_PROPERTIES_SASL_OAUTHBEARER_CLIENT_SECRET", PASSWORD.to_owned()),
        ("CLICKHOOK_KAFKA_PROPERTIES_SASL_OAUTHBEARER_TOKEN_ENDPOINT_URL", format!("http://{tokens}/token")),
    ]);
    settings
}

/// Starts an identity provider, which answers each request with an unsigned token of an hour.
fn identity_provider() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = [0; 4096];
            let _ = stream.read(&mut request);
            let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
            let (head, claims) =
                (r#"{"alg":"none"}"#, format!(r#"{{"sub":"{USER}","iat":{now},"exp":{}}}"#, now + 3600));
            let token = format!("{}.{}.", base64url(head), base64url(&claims));
            let body = format!(r#"{{"access_token":"{token}","token_type":"Bearer","expires_in":3600}}"#);
            let length = body.len();
            let _ = write!(
                stream,
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
            );
        }
    });
    address
}

fn base64url(text: &str) -> String {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    URL_SAFE_NO_PAD.encode(text)
}

/// A Kafka of three brokers with secure listeners.
struct SecuredKafka {
    runtime: Runtime,
    engines: Option<Engines>,
    certificates: Certificates,
}

impl SecuredKafka {
    fn start(dir: &Path) -> Self {
        let pki = dir.join("pki");
        std::fs::create_dir(&pki).unwrap();
        let certificates = Certificates::make(&pki).unwrap();
        let runtime = Runtime::new().unwrap();
        let mut options = Options::new(dir.join("kafka"));
        options.brokers = 3;
        options.clickhouse = Some(testbed::clickhouse());
        options.secure = Some(SecureListeners {
            key_and_certificate: certificates.brokers.clone(),
            authority: certificates.authority.clone(),
            user: USER.to_owned(),
            password: PASSWORD.to_owned(),
            stranger: STRANGER.to_owned(),
        });
        let engines = Some(runtime.block_on(Engines::start(options)).unwrap());
        Self { runtime, engines, certificates }
    }

    fn engines(&self) -> &Engines {
        self.engines.as_ref().unwrap()
    }
}

impl Drop for SecuredKafka {
    fn drop(&mut self) {
        if let Some(engines) = self.engines.take() {
            self.runtime.block_on(engines.shutdown());
        }
    }
}

/// Returns whether `migrate` succeeds with these settings, and all that it says.
fn migrate(installation: &Installation, brokers: &str, settings: &[(&'static str, String)]) -> (bool, String) {
    let output = installation
        .command("migrate")
        .env("CLICKHOOK_KAFKA_BROKERS", brokers)
        .envs(settings.iter().map(|(key, value)| (key, value)))
        .stdout(Stdio::piped())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.success(), said)
}

#[test]
fn a_kafka_that_asks_who_its_clients_are_is_used_like_any_other() {
    let (_keep, dir) = folder();
    let kafka = SecuredKafka::start(&dir);
    let (by_certificate, by_login) = (kafka.engines().kafka_by_certificate(), kafka.engines().kafka_by_login());
    let certificates = &kafka.certificates;

    // The pipeline logs in by SCRAM, with its password in a file.
    let password = dir.join("password");
    std::fs::write(&password, format!("{PASSWORD}\n")).unwrap();
    let mut settings = with_password(certificates, "SCRAM-SHA-512", "");
    settings.retain(|(key, _)| *key != "CLICKHOOK_KAFKA_PROPERTIES_SASL_PASSWORD");
    settings.push(("CLICKHOOK_KAFKA_PROPERTIES_SASL_PASSWORD_FILE", password.display().to_string()));
    settings.push(("CLICKHOOK_KAFKA_REPLICATION", "3".to_owned()));
    let pipeline = Installation::with_settings(dir.clone(), by_login.clone(), settings);
    let receiver = ClickReceiver::start();
    let control = pipeline.start("control");
    control.until_ready("control is the leader");
    set_up(&PipelineApi::new(control.serves), "sale", &receiver);
    let [ingest, enricher, dispatcher] = ["ingest", "enricher", "dispatcher"].map(|role| pipeline.start(role));
    for process in [&ingest, &enricher, &dispatcher] {
        process.until_ready("a role is ready");
    }
    until_redirects(ingest.serves, "sale");
    let load = Visitors::start(vec![ingest.serves], "sale", 2);
    load.wait_for(100);
    assert_eq!(load.failed(), 0, "redirects failed");
    let answered = load.stop();
    let (plain, clickhouse) = (kafka.engines().kafka_brokers(), testbed::clickhouse());
    check_promise(&answered, &plain, &pipeline.prefix, &clickhouse, &pipeline.database, &receiver);

    let other = Installation::new(dir.clone(), plain);
    let tokens = identity_provider();
    for (brokers, way) in [
        (&by_certificate, certificates.by_certificate()),
        (&by_login, with_password(certificates, "PLAIN", PASSWORD)),
        (&by_login, with_password(certificates, "SCRAM-SHA-256", PASSWORD)),
        (&by_login, by_token(certificates, tokens)),
    ] {
        let (migrated, said) = migrate(&other, brokers, &way);
        assert!(migrated, "{way:?}: {said}");
    }

    let left_to_kafka = vec![
        ("CLICKHOOK_KAFKA_PREFIX", testbed::unique("t")),
        ("CLICKHOOK_KAFKA_UNSET_TOPIC_SETTINGS", r#"["segment.ms","min.cleanable.dirty.ratio"]"#.to_owned()),
    ];
    let (migrated, said) = migrate(&other, &kafka.engines().kafka_brokers(), &left_to_kafka);
    assert!(migrated, "{said}");

    // Topics are there: what the pipeline made is not the stranger's.
    let mut stranger = certificates.by_login("PLAIN", STRANGER, PASSWORD);
    stranger.push(("CLICKHOOK_KAFKA_PREFIX", pipeline.prefix.clone()));
    let (migrated, said) = migrate(&other, &by_login, &stranger);
    assert!(!migrated, "{said}");
    for lacking in [
        format!("Describe, DescribeConfigs, Read, Write on topic {}.clicks", pipeline.prefix),
        format!("Describe, Read on group {}.enricher", pipeline.prefix),
        format!("Write on transactional id {}.permissions", pipeline.prefix),
    ] {
        assert!(said.contains(&lacking), "{lacking}: {said}");
    }

    let untrusting = vec![("CLICKHOOK_KAFKA_PROPERTIES_SECURITY_PROTOCOL", "ssl".to_owned())];
    for (brokers, way, reason) in [
        (&by_certificate, untrusting, "certificate verify failed"),
        (&by_certificate, certificates.trusted("ssl"), "SSL alert number"),
        (&by_login, with_password(certificates, "SCRAM-SHA-512", "wrong"), "Authentication failed"),
        (&by_login, with_password(certificates, "PLAIN", "wrong"), "Authentication failed"),
    ] {
        let (migrated, said) = migrate(&other, brokers, &way);
        assert!(!migrated, "{way:?}: {said}");
        assert!(said.contains(reason), "{way:?}: {said}");
        assert!(!said.contains(PASSWORD) && !said.contains("\"wrong\""), "{said}");
    }
}
