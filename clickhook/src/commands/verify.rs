//! `clickhook verify`: says whether a webhook that was saved to files is genuine, and
//! if not, why.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, bail, ensure};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use dispatcher::webhook::{
    sign::Signer,
    verify::{Age, verify},
};
use schemas::Timestamp;
use serde_json::Value;
use service::secret::Secret;

/// Verify a webhook that was saved to files.
#[derive(Debug, clap::Args)]
#[command(after_help = r"Exits with 0 if it verifies, and with 1 and the likely cause if it does not.

Examples:
  clickhook verify --body body.json --headers headers.txt --secret-file listen.secret
  clickhook verify --body body.json --headers headers.txt --secret whsec_… --ignore-age
  clickhook verify --body body.json --headers headers.txt --secret whsec_… --secret whsec_…

The file with the headers has a `name: value` a line, as curl and most servers print
them, or is JSON: an object as in the lines of `clickhook listen --json`, with a text or a
list for each name, or a HAR file. CGI's names (HTTP_WEBHOOK_ID) are understood as well.")]
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

/// The arguments that give a tool an endpoint's secrets: several during a rotation.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct SecretArgs {
    /// The endpoint's secret (`whsec_…`); several are given one by one, or with commas
    /// between. Other users of this machine can see it: prefer the variable or a file.
    #[arg(long, value_name = "SECRET", env = "CLICKHOOK_ENDPOINT_SECRET", hide_env_values = true, value_delimiter = ',', value_parser = secret)]
    secret: Vec<Secret>,
    /// A file with the secret, as `clickhook endpoints create --secret-file`
    /// writes it, or with several, one a line; it beats the other two.
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

    /// Returns the signers of the secrets; none if no secret was given, or the file does
    /// not exist (yet).
    pub(crate) fn signers(&self) -> anyhow::Result<Vec<Signer>> {
        // A file was named on purpose; a variable may be left over.
        if let Some(path) = &self.secret_file {
            return match fs::read_to_string(path) {
                Ok(text) => {
                    let lines = text.split_whitespace().map(|line| Signer::new(&Secret::new(line.to_owned())));
                    let signers: Vec<Signer> =
                        lines.collect::<Result<_, _>>().with_context(|| format!("what is in {} is", path.display()))?;
                    ensure!(!signers.is_empty(), "{} is empty: it should hold the endpoint's secret", path.display());
                    Ok(signers)
                }
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
                Err(error) => Err(error).with_context(|| format!("read the secret from {}", path.display())),
            };
        }
        Ok(self.secret.iter().map(Signer::new).collect::<Result<_, _>>()?)
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
    let read = fs::read(headers).map_err(Into::into).and_then(|bytes| parse(&text(&bytes)?));
    let headers = read.with_context(|| format!("read the headers from {name}"))?;
    let signers = secret.signers()?;
    if signers.is_empty() {
        match secret.file() {
            Some(path) => bail!("there is no file {}: it should hold the endpoint's secret", path.display()),
            None => bail!("no secret: give --secret-file, --secret or CLICKHOOK_ENDPOINT_SECRET"),
        }
    }
    let age = if ignore_age { Age::Ignored } else { Age::At(Timestamp::now()) };
    Ok(match verify(&signers, &headers, &body, age) {
        Ok(()) => {
            say!("verified ✓  the signatures are right");
            ExitCode::SUCCESS
        }
        Err(fault) => {
            say!("NOT verified ✗  {fault}");
            ExitCode::FAILURE
        }
    })
}

/// Returns the text of a file, which may be UTF-16 with a byte order mark, as some editors
/// save it.
fn text(bytes: &[u8]) -> anyhow::Result<String> {
    let utf16 = |bytes: &[u8], unit: fn([u8; 2]) -> u16| {
        let units: Vec<u16> = bytes.chunks_exact(2).map(|pair| unit([pair[0], pair[1]])).collect();
        String::from_utf16(&units).context("the file is neither UTF-8 nor UTF-16")
    };
    match bytes {
        [0xff, 0xfe, rest @ ..] => utf16(rest, u16::from_le_bytes),
        [0xfe, 0xff, rest @ ..] => utf16(rest, u16::from_be_bytes),
        _ => {
            let text = str::from_utf8(bytes).context("the file is not text in UTF-8")?;
            Ok(text.trim_start_matches('\u{feff}').to_owned())
        }
    }
}

/// Parses headers from lines of `name: value`, or from JSON.
fn parse(text: &str) -> anyhow::Result<HeaderMap> {
    if text.trim_start().starts_with(['{', '[']) {
        return parse_json(&serde_json::from_str(text)?);
    }
    let mut headers = HeaderMap::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        // The first line of a saved request or answer is no header.
        let is_start = line.starts_with("HTTP/") || line.contains(" HTTP/");
        // A variable of CGI has another separator.
        let separator = if line.starts_with(CGI) { '=' } else { ':' };
        match line.trim_start_matches(['<', '>', ' ']).split_once(separator) {
            _ if is_start => {}
            Some((name, value)) => add(&mut headers, name, value)?,
            None => bail!("`{line}` is not `name: value`"),
        }
    }
    Ok(headers)
}

/// Parses headers from an object of names, with a text or a list of texts each, or from a
/// list of objects with `name` and `value`, as HAR has them. Both may stand under `headers`,
/// that of a HAR file under its first request.
fn parse_json(json: &Value) -> anyhow::Result<HeaderMap> {
    let json = json.pointer("/log/entries/0/request").unwrap_or(json);
    let json = json.get("headers").unwrap_or(json);
    let mut headers = HeaderMap::new();
    match json {
        Value::Object(object) => {
            for (name, value) in object {
                let values = value.as_array().map_or_else(|| std::slice::from_ref(value), Vec::as_slice);
                for value in values {
                    let not_text = || format!("the value of `{name}` is neither text nor a list of texts");
                    add(&mut headers, name, &scalar(value).with_context(not_text)?)?;
                }
            }
        }
        Value::Array(list) => {
            for pair in list {
                let (name, value) = pair
                    .get("name")
                    .and_then(Value::as_str)
                    .zip(pair.get("value").and_then(scalar))
                    .with_context(|| format!("`{pair}` has no `name` and `value`"))?;
                // HTTP/2's own fields are no headers.
                if !name.starts_with(':') {
                    add(&mut headers, name, &value)?;
                }
            }
        }
        _ => bail!("`headers` is neither an object nor a list"),
    }
    Ok(headers)
}

/// Returns the text of a value that some tools write as a number.
fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// The beginning of the names of CGI's variables that hold headers (RFC 3875, 4.1.18).
const CGI: &str = "HTTP_";

fn add(headers: &mut HeaderMap, name: &str, value: &str) -> anyhow::Result<()> {
    let name = name.trim();
    let cgi = name.strip_prefix(CGI).map(|name| name.replace('_', "-"));
    let parsed: HeaderName =
        cgi.as_deref().unwrap_or(name).parse().with_context(|| format!("`{name}` is no header's name"))?;
    headers.append(parsed, HeaderValue::from_str(value.trim())?);
    Ok(())
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
        let both = format!("{}\n{}\n", mint().expose(), secret.expose());
        assert!(verified(BODY, &headers, &both, &[]), "one of two secrets");
    }

    #[test]
    fn headers_are_lines_or_json() {
        for text in [
            "POST / HTTP/1.1\nWebhook-Id: evt_1\n\n",
            "> webhook-id: evt_1\r\n",
            r#"{"webhook-id":"evt_1"}"#,
            r#"{"verified":true,"headers":{"webhook-id":"evt_1"}}"#,
            r#"{"Webhook-Id":["evt_1"],"Content-Length":["2"],"X-Number":7}"#,
            r#"[{"name":":method","value":"POST"},{"name":"webhook-id","value":"evt_1"}]"#,
            r#"{"log":{"entries":[{"request":{"headers":[{"name":"Webhook-Id","value":"evt_1"}]}}]}}"#,
            "HTTP_WEBHOOK_ID=evt_1\nHTTP_HOST=a\n",
            r#"{"HTTP_WEBHOOK_ID":"evt_1"}"#,
        ] {
            assert_eq!(parse(text).unwrap()["webhook-id"], "evt_1", "{text}");
        }
        assert!(parse("no header").unwrap_err().to_string().contains("`no header`"));
        assert!(parse("{").is_err());
        assert!(parse(r#"{"webhook-id":{}}"#).is_err());
    }

    #[test]
    fn files_of_other_encodings_are_read() {
        let line = "webhook-id: evt_1";
        let little: Vec<u8> = [0xff, 0xfe].into_iter().chain(line.encode_utf16().flat_map(u16::to_le_bytes)).collect();
        let big: Vec<u8> = [0xfe, 0xff].into_iter().chain(line.encode_utf16().flat_map(u16::to_be_bytes)).collect();
        for bytes in [line.as_bytes(), format!("\u{feff}{line}").as_bytes(), &little, &big] {
            assert_eq!(text(bytes).unwrap(), line);
        }
        assert!(text(b"\xff\x00").is_err());
    }
}
