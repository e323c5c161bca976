//! `clickhook links`.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::{
    import::{self, ImportArgs, LinkFormat},
    resource::{ListGetDelete, ResourceSpec, list, show},
};
use crate::{
    api::{ApiArgs, Method},
    output::{self, Columns},
};

const COLUMNS: Columns<'static> = &[
    ("id", "/id"),
    ("short url", "/short_url"),
    ("destination", "/destination"),
    ("campaign", "/campaign"),
    ("tags", "/tags"),
];
const LINKS: ResourceSpec = ResourceSpec { path: "/v1/links", facts: COLUMNS, columns: COLUMNS };

/// The subcommands of `clickhook links`.
#[derive(Debug, Subcommand)]
pub(crate) enum LinksCommand {
    /// Create a link.
    #[command(after_help = r"Example:
  clickhook links create --slug sale --to https://example.com/ --campaign winter --tag social")]
    Create {
        #[command(flatten)]
        fields: LinkFields,
        #[command(flatten)]
        api: ApiArgs,
    },
    /// Create and change links by the million, from a file. A link whose
    /// `external_id`, or domain and slug, is there already is changed: an import
    /// can be repeated. Exits with 1 if lines were rejected.
    #[command(after_help = r#"Examples:
  clickhook links import links.ndjson
  zcat links.ndjson.gz | clickhook links import - --json

A line:
  {"external_id":"42","slug":"sale","destination":"https://example.com/","tags":["q1"]}"#)]
    Import(ImportArgs),
    /// Change a link.
    #[command(after_help = r"Example:
  clickhook links update lnk_… --to https://example.com/new")]
    Update {
        /// Its id (`lnk_…`).
        id: String,
        #[command(flatten)]
        fields: LinkFields,
        #[command(flatten)]
        api: ApiArgs,
    },
    /// Print all links, newest first, in a form that `import` takes.
    #[command(after_help = r"Examples:
  clickhook links export > links.ndjson
  clickhook links export --format csv > links.csv")]
    Export {
        /// The format.
        #[arg(long, value_enum, default_value = "ndjson")]
        format: LinkFormat,
        #[command(flatten)]
        api: ApiArgs,
    },
    /// List the tags, each with its number of links.
    Tags {
        #[command(flatten)]
        api: ApiArgs,
    },
    /// Rename a tag on all links.
    #[command(after_help = r"Example:
  clickhook links rename-tag sosial social")]
    RenameTag {
        /// The tag as it is.
        from: String,
        /// The tag as it is to be.
        to: String,
        #[command(flatten)]
        api: ApiArgs,
    },
    /// Lists, shows and deletes.
    #[command(flatten)]
    Stored(ListGetDelete),
}

/// The fields of a link that can be set.
#[derive(Debug, Args)]
pub(crate) struct LinkFields {
    /// The address that it leads to.
    #[arg(long, value_name = "URL")]
    to: Option<String>,
    /// The path of the short address; made up if none is given.
    #[arg(long)]
    slug: Option<String>,
    /// The host that it answers on; the default domain if none is given.
    #[arg(long, value_name = "HOST")]
    domain: Option<String>,
    /// The campaign that it belongs to.
    #[arg(long)]
    campaign: Option<String>,
    /// The audience that it is for.
    #[arg(long)]
    segment: Option<String>,
    /// With a new slug: go on answering on the old one.
    #[arg(long)]
    keep_old: bool,
    /// A label; give it several times for several.
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
    /// 301, 302, 307 or 308.
    #[arg(long, value_name = "CODE")]
    status_code: Option<u16>,
    /// When it begins (RFC 3339); unknown to visitors before.
    #[arg(long, value_name = "TIME")]
    starts_at: Option<String>,
    /// When it ends (RFC 3339).
    #[arg(long, value_name = "TIME")]
    expires_at: Option<String>,
    /// After how many clicks it ends, or a few more.
    #[arg(long, value_name = "N")]
    max_clicks: Option<u64>,
    /// The visitors who are counted: `people`, as by default, or `all`.
    #[arg(long, value_name = "WHOSE")]
    max_clicks_of: Option<String>,
    /// Where visitors of the ended link are sent.
    #[arg(long, value_name = "URL")]
    expired_url: Option<String>,
    /// Add the click's id to the destination's query, for conversions to name it.
    #[arg(long)]
    append_click_id: bool,
    /// Your own id of it, unique in the workspace.
    #[arg(long, value_name = "ID")]
    external_id: Option<String>,
}

impl LinkFields {
    fn body(self) -> Value {
        let mut body = Map::new();
        let texts = [
            ("destination", self.to),
            ("slug", self.slug),
            ("domain", self.domain),
            ("campaign", self.campaign),
            ("segment", self.segment),
            ("starts_at", self.starts_at),
            ("expires_at", self.expires_at),
            ("max_clicks_of", self.max_clicks_of),
            ("expired_url", self.expired_url),
            ("external_id", self.external_id),
        ];
        body.extend(texts.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?.into()))));
        if !self.tags.is_empty() {
            body.insert("tags".to_owned(), self.tags.into());
        }
        if let Some(code) = self.status_code {
            body.insert("status_code".to_owned(), code.into());
        }
        if let Some(clicks) = self.max_clicks {
            body.insert("max_clicks".to_owned(), clicks.into());
        }
        if self.keep_old {
            body.insert("keep_old".to_owned(), true.into());
        }
        if self.append_click_id {
            body.insert("append_click_id".to_owned(), true.into());
        }
        Value::Object(body)
    }
}

/// Runs `clickhook links …`.
pub(crate) fn run(command: LinksCommand) -> anyhow::Result<ExitCode> {
    let (api, link): (ApiArgs, Value) = match command {
        LinksCommand::Create { fields, api } => {
            let link = api.client()?.call(Method::Post, "/v1/links", Some(&fields.body()))?;
            (api, link)
        }
        LinksCommand::Update { id, fields, api } => {
            let link = api.client()?.call(Method::Patch, &format!("/v1/links/{id}"), Some(&fields.body()))?;
            (api, link)
        }
        LinksCommand::Import(args) => return import::run(&args),
        LinksCommand::Export { format, api } => {
            let path = format!("/v1/links/export?format={}", format.name());
            api.client()?.download(&path, &mut std::io::stdout().lock())?;
            return Ok(ExitCode::SUCCESS);
        }
        LinksCommand::Tags { api } => {
            list(&api, "/v1/tags", &[("tag", "/tag"), ("links", "/links")])?;
            return Ok(ExitCode::SUCCESS);
        }
        LinksCommand::RenameTag { from, to, api } => return rename_tag(&api, &from, &to),
        LinksCommand::Stored(command) => {
            command.run(&LINKS)?;
            return Ok(ExitCode::SUCCESS);
        }
    };
    show(&api, &link, COLUMNS);
    Ok(ExitCode::SUCCESS)
}

/// Renames a tag, call by call, until no link has the old name.
fn rename_tag(api: &ApiArgs, from: &str, to: &str) -> anyhow::Result<ExitCode> {
    let client = api.client()?;
    let mut renamed = 0;
    loop {
        let done: Value = client.call(Method::Post, "/v1/tags/rename", Some(&json!({"from": from, "to": to})))?;
        let now = done["renamed"].as_u64().unwrap_or_default();
        let left = done["left"].as_u64().unwrap_or_default();
        renamed += now;
        if left > 0 && now > 0 {
            continue;
        }
        if api.json {
            output::json(&json!({"renamed": renamed, "left": left}));
        } else {
            say!("renamed {from} to {to} on {renamed} links");
        }
        if left == 0 {
            return Ok(ExitCode::SUCCESS);
        }
        anyhow::bail!("{left} links still have the tag: {}", done["detail"].as_str().unwrap_or("try again"));
    }
}
