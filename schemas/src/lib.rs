//! The words of clickhook: what a link, a click, an event, an endpoint, a
//! delivery and an attempt are, how they are named, and what they look like as
//! JSON. No I/O happens here, and every other crate speaks in these types.

pub mod click;
pub mod delivery;
pub mod endpoint;
pub mod event;
pub mod filter;
pub mod ids;
pub mod link;
pub mod sample;
pub mod time;
pub mod topics;
pub mod usermap;

pub use click::{ClickClass, RawClick};
pub use delivery::{Attempt, Dead, Delivery, Origin, Outcome};
pub use endpoint::{Endpoint, EndpointStatus, SealedSecret};
pub use event::{Attribution, ClickFacts, Envelope, Event, EventName, LinkFacts, Utm};
pub use filter::Filters;
pub use ids::{AttemptId, ClickId, EndpointId, EventId, LinkId, WorkspaceId};
pub use link::Link;
pub use time::Timestamp;
pub use topics::{Topic, Topics};
