//! `clickhook domains`.

use clap::{Subcommand, ValueEnum};
use serde_json::json;

use super::resource::{ListGetDelete, ResourceSpec, json_object};
use crate::api::ApiArgs;

const DOMAINS: ResourceSpec = ResourceSpec {
    path: "/v1/domains",
    facts: &[
        ("id", "/id"),
        ("name", "/name"),
        ("default", "/is_default"),
        ("slug case", "/slug_case"),
        ("root", "/root_url"),
        ("fallback", "/fallback_url"),
        ("expired", "/expired_url"),
        ("TXT record", "/verification"),
        ("verified", "/verified_at"),
        ("by", "/proof"),
        ("TXT record gone since", "/proof_missing_since"),
        ("lapsed", "/lapsed_at"),
    ],
    columns: &[
        ("id", "/id"),
        ("name", "/name"),
        ("default", "/is_default"),
        ("fallback", "/fallback_url"),
        ("verified", "/verified_at"),
    ],
};

/// The choice whether upper and lower case make different slugs.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum SlugCaseArg {
    Sensitive,
    Insensitive,
}

/// The subcommands of `clickhook domains`.
#[derive(Debug, Subcommand)]
pub(crate) enum DomainsCommand {
    /// Create a domain. It serves nothing until it is verified: put its TXT record at
    /// `_clickhook.<name>`, then run `clickhook domains verify`.
    #[command(after_help = r"Example:
  clickhook domains create --name go.acme.example --fallback-url https://acme.example/ --default")]
    Create {
        /// The host name.
        #[arg(long)]
        name: String,
        /// Links that name no domain answer on it, once it is verified.
        #[arg(long)]
        default: bool,
        /// Whether `Sale` and `sale` are two slugs; fixed from then on.
        #[arg(long, value_enum, default_value = "sensitive")]
        slug_case: SlugCaseArg,
        /// `/sale/` is `/sale`.
        #[arg(long)]
        ignore_trailing_slash: bool,
        /// Where `/` leads.
        #[arg(long, value_name = "URL")]
        root_url: Option<String>,
        /// Where addresses lead that no link has.
        #[arg(long, value_name = "URL")]
        fallback_url: Option<String>,
        /// Where expired links lead.
        #[arg(long, value_name = "URL")]
        expired_url: Option<String>,
        #[command(flatten)]
        api: ApiArgs,
    },
    /// Look for a domain's TXT record, and let it serve.
    #[command(after_help = r"Examples:
  clickhook domains verify dom_…
  clickhook domains verify dom_… --vouch")]
    Verify {
        /// Its id (`dom_…`).
        id: String,
        /// Do not ask DNS: an operator says that it is right.
        #[arg(long)]
        vouch: bool,
        #[command(flatten)]
        api: ApiArgs,
    },
    /// Lists, shows and deletes.
    #[command(flatten)]
    Stored(ListGetDelete),
}

/// Runs `clickhook domains …`.
pub(crate) fn run(command: DomainsCommand) -> anyhow::Result<()> {
    match command {
        DomainsCommand::Create {
            name,
            default,
            slug_case,
            ignore_trailing_slash,
            root_url,
            fallback_url,
            expired_url,
            api,
        } => {
            let slug_case = match slug_case {
                SlugCaseArg::Sensitive => "sensitive",
                SlugCaseArg::Insensitive => "insensitive",
            };
            let body = json_object([
                ("name", Some(name.into())),
                ("is_default", Some(default.into())),
                ("slug_case", Some(slug_case.into())),
                ("trailing_slash", ignore_trailing_slash.then(|| "ignored".into())),
                ("root_url", root_url.map(Into::into)),
                ("fallback_url", fallback_url.map(Into::into)),
                ("expired_url", expired_url.map(Into::into)),
            ]);
            DOMAINS.create(&api, &body)
        }
        DomainsCommand::Verify { id, vouch, api } => DOMAINS.act(&api, &id, "verify", &json!({"vouch": vouch})),
        DomainsCommand::Stored(command) => command.run(&DOMAINS),
    }
}
