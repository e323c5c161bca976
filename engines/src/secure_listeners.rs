//! Listeners of Kafka with TLS, beside the plain one, for those who try clients with a Kafka
//! that asks who they are.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use tokio::process::Command;

use crate::{Error, install::Installed};

/// The files and the users of listeners with TLS. There are two at each broker: one that asks for
/// a client's certificate, and one where clients log in by SASL (PLAIN, SCRAM or OAUTHBEARER
/// with unsigned tokens).
#[derive(Debug, Clone)]
pub struct SecureListeners {
    /// A PEM file with the brokers' private key and their certificate.
    pub key_and_certificate: PathBuf,
    /// A PEM file with the authority whose certificates clients must have.
    pub authority: PathBuf,
    /// The user who logs in, and may do everything. So may clients whose certificate has this
    /// common name, and those of the plain listener.
    pub user: String,
    /// The user's password, without quotes and spaces.
    pub password: String,
    /// A user who may do nothing, and logs in by PLAIN with the same password.
    pub stranger: String,
}

/// The ports of a broker's secure listeners.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SecurePorts {
    pub(crate) certificates: u16,
    pub(crate) logins: u16,
}

impl SecureListeners {
    /// Returns the lines of a broker's configuration. They stand behind those of
    /// `server.properties`, and the last line with a key counts.
    pub(crate) fn config(&self, plain: u16, controllers: u16, own: SecurePorts) -> String {
        let SecurePorts { certificates, logins } = own;
        let Self { key_and_certificate, authority, user, password, stranger } = self;
        let (keystore, truststore) = (escaped(key_and_certificate), escaped(authority));
        let clients = format!(
            "PLAINTEXT://127.0.0.1:{plain},CERTIFICATES://127.0.0.1:{certificates},LOGINS://127.0.0.1:{logins}"
        );
        let kafka = "org.apache.kafka.common.security";
        format!(
            "listeners={clients},CONTROLLER://127.0.0.1:{controllers}\n\
             advertised.listeners={clients}\n\
             listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,CERTIFICATES:SSL,LOGINS:SASL_SSL\n\
             ssl.keystore.type=PEM\n\
             ssl.keystore.location={keystore}\n\
             ssl.truststore.type=PEM\n\
             ssl.truststore.location={truststore}\n\
             listener.name.certificates.ssl.client.auth=required\n\
             listener.name.logins.sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER\n\
             listener.name.logins.plain.sasl.jaas.config={kafka}.plain.PlainLoginModule required user_{user}=\"{password}\" \
             user_{stranger}=\"{password}\";\n\
             listener.name.logins.scram-sha-256.sasl.jaas.config={kafka}.scram.ScramLoginModule required;\n\
             listener.name.logins.scram-sha-512.sasl.jaas.config={kafka}.scram.ScramLoginModule required;\n\
             listener.name.logins.oauthbearer.sasl.jaas.config={kafka}.oauthbearer.OAuthBearerLoginModule required \
             unsecuredLoginStringClaim_sub=\"broker\";\n\
             authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer\n\
             super.users=User:ANONYMOUS;User:CN={user};User:{user}\n"
        )
    }

    /// Tells Kafka the user's password, which SCRAM needs before the first login.
    pub(crate) async fn make_user(&self, installed: &Installed, broker: &str) -> Result<(), Error> {
        // Kafka takes one kind of password a request.
        for kind in ["SCRAM-SHA-256", "SCRAM-SHA-512"] {
            self.set_password(installed, broker, kind).await?;
        }
        Ok(())
    }

    async fn set_password(&self, installed: &Installed, broker: &str, kind: &str) -> Result<(), Error> {
        let Self { user, password, .. } = self;
        let credentials = format!("{kind}=[password={password}]");
        let failed = |source| Error::io("make a user of Kafka by", "kafka.admin.ConfigCommand", source);
        let output = Command::new(installed.java())
            .args(["@classpath.args", "-Xmx64m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"])
            .args(["kafka.admin.ConfigCommand", "--bootstrap-server", broker, "--alter"])
            .args(["--entity-type", "users", "--entity-name", user, "--add-config", &credentials])
            .current_dir(installed.kafka())
            .stdin(Stdio::null())
            .output()
            .await
            .map_err(failed)?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
        Err(failed(std::io::Error::other(said)))
    }
}

/// A path as a value of a Java properties file.
fn escaped(path: &Path) -> String {
    path.to_string_lossy().replace('\\', "\\\\")
}
