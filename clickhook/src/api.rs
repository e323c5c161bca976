//! The client of the API that the commands use: requests with the admin key, and
//! problems as readable text.

use std::{
    io::{Read, Write},
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context, bail};
use clap::Args;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{keys, variables};

/// How long the API may take to answer.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The arguments of every command that calls the API.
#[derive(Clone, Debug, Args)]
pub(crate) struct ApiArgs {
    /// The address of the API.
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8081", env = "CLICKHOOK_API", global = true)]
    api: String,
    /// A file with the API key, where `CLICKHOOK_ADMIN_KEY` is not set.
    #[arg(long, value_name = "FILE", default_value = "./data/admin.key", env = "CLICKHOOK_KEY_FILE", global = true)]
    key_file: PathBuf,
    /// Print JSON, for programs.
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

/// A client of the API.
pub(crate) struct ApiClient {
    agent: ureq::Agent,
    base: String,
    authorization: String,
}

/// The method of a request.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Method {
    Get,
    Post,
    Patch,
    Delete,
}

impl ApiArgs {
    /// Returns a client with the key of the environment or the key file.
    pub(crate) fn client(&self) -> anyhow::Result<ApiClient> {
        let key = match variables::get(keys::ADMIN_KEY)? {
            Some(key) => key,
            None => keys::read(&self.key_file).with_context(|| {
                format!(
                    "no API key: set {}, or give the file that `clickhook up` keeps it in with --key-file",
                    keys::ADMIN_KEY
                )
            })?,
        };
        let agent =
            ureq::Agent::config_builder().timeout_global(Some(TIMEOUT)).http_status_as_error(false).build().into();
        Ok(ApiClient { agent, base: self.api.trim_end_matches('/').to_owned(), authorization: format!("Bearer {key}") })
    }
}

impl ApiClient {
    /// Sends a request and reads the answer.
    pub(crate) fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> anyhow::Result<T> {
        let url = format!("{}{path}", self.base);
        let request = ureq::http::Request::builder()
            .method(match method {
                Method::Get => "GET",
                Method::Post => "POST",
                Method::Patch => "PATCH",
                Method::Delete => "DELETE",
            })
            .uri(&url)
            .header("authorization", &self.authorization)
            .header("content-type", "application/json");
        let body = body.map(Value::to_string).unwrap_or_default();
        let mut answer = self
            .agent
            .run(request.body(body).with_context(|| format!("{url} is no address"))?)
            .with_context(|| format!("cannot reach the API at {}: is `clickhook up` running?", self.base))?;
        read(&mut answer, path)
    }

    /// Posts `body` to its end, however long that takes, and reads the answer.
    pub(crate) fn stream<T: DeserializeOwned>(
        &self,
        path: &str,
        content_type: &str,
        body: &mut dyn Read,
    ) -> anyhow::Result<T> {
        let request = self
            .agent
            .post(format!("{}{path}", self.base))
            .config()
            .timeout_global(None)
            .timeout_connect(Some(TIMEOUT))
            .build()
            .header("authorization", &self.authorization)
            .header("content-type", content_type)
            // A refusal comes before the body is sent, not while it is.
            .header("expect", "100-continue");
        let mut answer = request
            .send(ureq::SendBody::from_reader(body))
            .with_context(|| format!("the API at {} did not take everything", self.base))?;
        read(&mut answer, path)
    }

    /// Writes the answer to `out` while it comes, however long that takes.
    pub(crate) fn download(&self, path: &str, out: &mut dyn Write) -> anyhow::Result<()> {
        let request = self.agent.get(format!("{}{path}", self.base)).config().timeout_global(None);
        let request = request.timeout_connect(Some(TIMEOUT)).build().header("authorization", &self.authorization);
        let mut answer = request
            .call()
            .with_context(|| format!("cannot reach the API at {}: is `clickhook up` running?", self.base))?;
        if !answer.status().is_success() {
            return read::<Value>(&mut answer, path).map(drop);
        }
        std::io::copy(&mut answer.body_mut().as_reader(), out).context("the API's answer broke off")?;
        Ok(())
    }

    /// Posts NDJSON, with an `Idempotency-Key` or without, and reads the answer. An answer
    /// that refuses every line is an answer, too.
    pub(crate) fn lines(&self, path: &str, body: &str, key: Option<&str>) -> anyhow::Result<Value> {
        let mut request = self
            .agent
            .post(format!("{}{path}", self.base))
            .header("authorization", &self.authorization)
            .header("content-type", "application/x-ndjson");
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        let mut answer = request
            .send(body)
            .with_context(|| format!("cannot reach the API at {}: is `clickhook up` running?", self.base))?;
        let status = answer.status();
        let text = answer.body_mut().read_to_string().context("read the API's answer")?;
        let read: Value = serde_json::from_str(&text).unwrap_or_default();
        if !status.is_success() && !read["rejected"].is_array() {
            bail!("{}", problem(status.as_u16(), &text));
        }
        Ok(read)
    }

    /// Reads every page of a list.
    pub(crate) fn list(&self, path: &str) -> anyhow::Result<Vec<Value>> {
        self.list_chosen(path, "?")
    }

    /// Reads every page of a list with a query, which begins with `?` and ends with `&` if
    /// it has parameters.
    pub(crate) fn list_chosen(&self, path: &str, query: &str) -> anyhow::Result<Vec<Value>> {
        let mut all = Vec::new();
        let mut cursor = String::new();
        loop {
            let page: Value = self.call(Method::Get, &format!("{path}{query}limit=100{cursor}"), None)?;
            all.extend(page["data"].as_array().cloned().unwrap_or_default());
            match page["next"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return Ok(all),
            }
        }
    }
}

fn read<T: DeserializeOwned>(answer: &mut ureq::http::Response<ureq::Body>, path: &str) -> anyhow::Result<T> {
    let status = answer.status();
    let text = answer.body_mut().read_to_string().context("read the API's answer")?;
    if !status.is_success() {
        bail!("{}", problem(status.as_u16(), &text));
    }
    let text = if text.is_empty() { "null" } else { &text };
    serde_json::from_str(text).with_context(|| format!("the API's answer to {path} is not what was expected"))
}

/// Returns a problem (RFC 9457) as readable text.
fn problem(status: u16, text: &str) -> String {
    let Ok(problem) = serde_json::from_str::<Value>(text) else { return format!("the API answers {status}: {text}") };
    let mut words = problem["detail"].as_str().or(problem["title"].as_str()).unwrap_or("refused").to_owned();
    for error in problem["errors"].as_array().into_iter().flatten() {
        let field = error["field"].as_str().unwrap_or("?");
        let reason = error["reason"].as_str().unwrap_or("?");
        words.push_str(&format!("\n  {field}: {reason}"));
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_told_with_its_fields() {
        let text = r#"{"type":"about:blank","title":"Unprocessable","status":422,"detail":"The link is refused","errors":[{"field":"slug","reason":"is taken"}]}"#;
        assert_eq!(problem(422, text), "The link is refused\n  slug: is taken");
        assert_eq!(problem(502, "bad gateway"), "the API answers 502: bad gateway");
    }
}
