//! `clickhook verify`: says whether a webhook that was saved to files is genuine, and
//! if not, why.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, bail};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use dispatcher::webhook::{
    sign::Signer,
    verify::{Age, verify},
};
use schemas::Timestamp;
use service::secret::Secret;

/// Verify a webhook that was saved to files.
#[derive(Debug, clap::Args)]
#[command(after_help = r"Exits with 0 if it verifies, and with 1 and the likely cause if it does not.

Examples:
  clickhook verify --body body.json --headers headers.txt --secret-file listen.secret
  clickhook verify --body body.json --headers headers.txt --secret whsec_… --ignore-age

The file with the headers has a `name: value` a line, as curl and most servers print
them, or is a JSON object, as in the lines of `clickhook listen --json`.")]
pub(crate) struct VerifyArgs {
    /// The body, byte for byte as it came.
    #[arg(long, value_name = "FILE")]
    body: PathBuf,
    /// The headers, as lines of `name: value` or a JSON object.
    #[arg(long, value_name = "FILE")]
    headers: PathBuf,
    #[command(flatten)]
    secret: SecretArgs,
    /// Accept any age: for a webhook that was saved more than 5 minutes ago.
    #[arg(long)]
    ignore_age: bool,
}

/// The arguments that give a tool an endpoint's secret.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct SecretArgs {
    /// The endpoint's secret (`whsec_…`). Other users of this machine can see
    /// it: prefer the variable or a file.
    #[arg(long, value_name = "SECRET", env = "CLICKHOOK_ENDPOINT_SECRET", hide_env_values = true, value_parser = secret)]
    secret: Option<Secret>,
    /// A file with the secret, as `clickhook endpoints create --secret-file`
    /// writes it; it beats the other two.
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
}

fn secret(text: &str) -> Result<Secret, String> {
    let secret = Secret::new(text.trim().to_owned());
    Signer::new(&secret).map(|_| secret).map_err(|error| error.to_string())
}

impl SecretArgs {
    /// Returns the file that holds the secret, if one was named.
    pub(crate) fn file(&self) -> Option<&Path> {
        self.secret_file.as_deref()
    }

    /// Returns the signer of the secret; `None` if none was given, or its file does
    /// not exist (yet).
    pub(crate) fn signer(&self) -> anyhow::Result<Option<Signer>> {
        // A file was named on purpose; a variable may be left over.
        if let Some(path) = &self.secret_file {
            return match fs::read_to_string(path) {
                Ok(text) => {
                    let secret = Secret::new(text.trim().to_owned());
                    Signer::new(&secret).map(Some).with_context(|| format!("what is in {} is", path.display()))
                }
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
                Err(error) => Err(error).with_context(|| format!("read the secret from {}", path.display())),
            };
        }
        Ok(self.secret.as_ref().map(Signer::new).transpose()?)
    }
}

/// Runs the command.
///
/// # Errors
/// When a file cannot be read, or no secret was given.
pub(crate) fn run(args: VerifyArgs) -> anyhow::Result<ExitCode> {
    let VerifyArgs { body, headers, secret, ignore_age } = args;
    let body = fs::read(&body).with_context(|| format!("read the body from {}", body.display()))?;
    let name = headers.display().to_string();
    let read = fs::read_to_string(headers).map_err(Into::into).and_then(|text| parse(&text));
    let headers = read.with_context(|| format!("read the headers from {name}"))?;
    let Some(signer) = secret.signer()? else {
        match secret.file() {
            Some(path) => bail!("there is no file {}: it should hold the endpoint's secret", path.display()),
            None => bail!("no secret: give --secret-file, --secret or CLICKHOOK_ENDPOINT_SECRET"),
        }
    };
    let age = if ignore_age { Age::Ignored } else { Age::At(Timestamp::now()) };
    Ok(match verify(&signer, &headers, &body, age) {
        Ok(()) => {
            say!("verified ✓  both signatures are right");
            ExitCode::SUCCESS
        }
        Err(fault) => {
            say!("NOT verified ✗  {fault}");
            ExitCode::FAILURE
        }
    })
}

/// Parses headers from lines of `name: value`, or from a JSON object (or one that has
/// them under `headers`).
fn parse(text: &str) -> anyhow::Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    let mut add = |name: &str, value: &str| -> anyhow::Result<()> {
        let name: HeaderName = name.trim().parse().with_context(|| format!("`{name}` is no header's name"))?;
        headers.append(name, HeaderValue::from_str(value.trim())?);
        Ok(())
    };
    if text.trim_start().starts_with('{') {
        let object: serde_json::Value = serde_json::from_str(text)?;
        let object = object.get("headers").unwrap_or(&object);
        for (name, value) in object.as_object().context("`headers` is not an object")? {
            add(name, value.as_str().with_context(|| format!("the value of `{name}` is not text"))?)?;
        }
        return Ok(headers);
    }
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        // The first line of a saved request or answer is no header.
        let is_start = line.starts_with("HTTP/") || line.contains(" HTTP/");
        match line.trim_start_matches(['<', '>', ' ']).split_once(':') {
            _ if is_start => {}
            Some((name, value)) => add(name, value)?,
            None => bail!("`{line}` is not `name: value`"),
        }
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use clap::Parser;
    use dispatcher::webhook::sign::{ID, SIGNATURE, SIMPLE_SIGNATURE, TIMESTAMP};
    use service::secret::mint;

    use super::*;

    #[derive(Parser)]
    struct VerifyLine {
        #[command(flatten)]
        args: VerifyArgs,
    }

    const BODY: &str = r#"{"id":"evt_1"}"#;

    fn file(text: &str) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file
    }

    fn signed(secret: &Secret, at: i64) -> String {
        let signer = Signer::new(secret).unwrap();
        format!(
            "POST /hook HTTP/1.1\r\nContent-Type: application/json\r\n{ID}: evt_1\r\n{TIMESTAMP}: {at}\r\n{SIGNATURE}: {}\r\n{SIMPLE_SIGNATURE}: {}\r\n\r\n",
            signer.standard("evt_1", at, BODY.as_bytes()),
            signer.simple(BODY.as_bytes())
        )
    }

    fn verified(body: &str, headers: &str, secret: &str, more: &[&str]) -> bool {
        let (body, headers, secret) = (file(body), file(headers), file(secret));
        let path = |file: &tempfile::NamedTempFile| file.path().to_str().unwrap().to_owned();
        let mut line = vec!["verify".to_owned()];
        for (flag, file) in [("--body", &body), ("--headers", &headers), ("--secret-file", &secret)] {
            line.extend([flag.to_owned(), path(file)]);
        }
        line.extend(more.iter().map(ToString::to_string));
        run(VerifyLine::parse_from(line).args).unwrap() == ExitCode::SUCCESS
    }

    #[test]
    fn files_are_verified() {
        let secret = mint();
        let headers = signed(&secret, Timestamp::now().as_secs());
        let line = format!("{}\n", secret.expose());
        assert!(verified(BODY, &headers, &line, &[]));
        assert!(!verified(&format!("{BODY} "), &headers, &line, &[]));
        assert!(!verified(BODY, &headers, mint().expose(), &[]));
        let old = signed(&secret, 1_614_265_330);
        assert!(!verified(BODY, &old, &line, &[]));
        assert!(verified(BODY, &old, &line, &["--ignore-age"]));
    }

    #[test]
    fn headers_are_lines_or_json() {
        for text in [
            "POST / HTTP/1.1\nWebhook-Id: evt_1\n\n",
            "> webhook-id: evt_1\r\n",
            r#"{"webhook-id":"evt_1"}"#,
            r#"{"verified":true,"headers":{"webhook-id":"evt_1"}}"#,
        ] {
            assert_eq!(parse(text).unwrap()["webhook-id"], "evt_1", "{text}");
        }
        assert!(parse("no header").unwrap_err().to_string().contains("`no header`"));
        assert!(parse("{").is_err());
    }
}
