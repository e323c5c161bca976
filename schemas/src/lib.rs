//! The vocabulary of clickhook: links, clicks, events, endpoints, deliveries and
//! attempts, with their ids and their JSON. No I/O happens here, and every other crate
//! uses these types.

pub mod attempt;
pub mod audit;
pub mod batch;
pub mod bot_reason;
pub mod campaign;
pub mod click;
pub mod conversion;
pub mod dead;
pub mod delivery;
pub mod endpoint;
pub mod endpoint_health;
pub mod event;
pub mod event_name;
pub mod filter;
pub mod fired;
pub mod groups;
pub mod hints;
pub mod idempotency;
pub mod ids;
pub mod keyring;
pub mod leader;
pub mod link;
pub mod placeholder;
pub mod replay;
pub mod retry;
pub mod sample;
mod schema;
pub mod scheme;
pub mod time;
pub mod topics;
pub mod unseen;
pub mod usermap;
pub mod watch;
pub mod webhook_format;
pub mod workspace;

/// The beginning of the short address of a link without a domain, unless it is configured.
pub const DEFAULT_SHORT_URL_BASE: &str = "http://localhost:8080";

pub use attempt::{Attempt, AttemptedEvent, Outcome};
pub use batch::{BatchLimits, Packing};
pub use bot_reason::BotReason;
pub use campaign::Campaign;
pub use click::{ClickClass, RawClick, Replayed};
pub use conversion::RawConversion;
pub use dead::{Dead, DeadOrigin};
pub use delivery::{DeliveredEvent, Delivery};
pub use endpoint::{Endpoint, SealedSecret};
pub use endpoint_health::EndpointStatus;
pub use event::{Attribution, ClickFacts, ConversionFacts, EndpointFacts, Envelope, Event, LinkFacts, Utm};
pub use event_name::EventName;
pub use filter::Filters;
pub use groups::ConsumerGroup;
pub use ids::{
    AttemptId, BatchId, CampaignId, ClickId, ConversionId, DomainId, EndpointId, EventId, KeyId, LinkId, ReplayId,
    WorkspaceId,
};
pub use keyring::Keyring;
pub use link::Link;
pub use placeholder::is_placeholder;
pub use replay::Replay;
pub use retry::{DelayTier, RetrySchedule};
pub use scheme::AppSchemes;
pub use time::Timestamp;
pub use topics::{Topic, Topics};
pub use webhook_format::WebhookFormat;
pub use workspace::{Domain, DomainProof, Key, Scope, Workspace, WorkspaceLimits};
