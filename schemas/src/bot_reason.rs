//! The reasons for which a visit counts as a program's.

use std::fmt;

/// The reason for which a visit counts as a program's, without its detail. The fact
/// `bot_reason` is its name, and behind a colon the detail where there is one:
/// `crawler:Googlebot`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BotReason {
    /// The visit has no user agent.
    NoUserAgent,
    /// The user agent fetches a page because a person has just asked an assistant.
    AiAgent,
    /// The user agent shows a link's title and picture to people.
    Preview,
    /// The user agent is a crawler by its name.
    Crawler,
    /// The user agent has the word of a library, tool, monitor or scanner.
    Word,
    /// The user agent has a web or mail address, as only programs have.
    Link,
    /// The user agent calls itself compatible with a browser.
    Compatible,
    /// The user agent names no browser's engine.
    NoBrowser,
    /// The user agent is one that no browser can have.
    Impossible,
    /// The visit comes from a network of data centres, where this is configured to count.
    Datacentre,
    /// The visit comes from a network that belongs to a crawler.
    Network,
    /// The address makes more requests than a person would.
    Rate,
}

impl BotReason {
    /// Names that look like reasons and are none: browsers that ask ahead, and requests
    /// for the headers alone, are no clicks, so no event tells of them.
    pub const NO_CLICKS: [&'static str; 2] = ["prefetch", "head"];

    /// Every reason.
    pub const ALL: &'static [Self] = &[
        Self::NoUserAgent,
        Self::AiAgent,
        Self::Preview,
        Self::Crawler,
        Self::Word,
        Self::Link,
        Self::Compatible,
        Self::NoBrowser,
        Self::Impossible,
        Self::Datacentre,
        Self::Network,
        Self::Rate,
    ];

    /// The name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoUserAgent => "no_user_agent",
            Self::AiAgent => "ai_agent",
            Self::Preview => "preview",
            Self::Crawler => "crawler",
            Self::Word => "word",
            Self::Link => "link",
            Self::Compatible => "compatible",
            Self::NoBrowser => "no_browser",
            Self::Impossible => "impossible",
            Self::Datacentre => "datacentre",
            Self::Network => "network",
            Self::Rate => "rate",
        }
    }

    /// Returns the part of a fact `bot_reason` before its detail.
    #[must_use]
    pub fn without_detail(fact: &str) -> &str {
        fact.split_once(':').map_or(fact, |(reason, _)| reason)
    }
}

impl fmt::Display for BotReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
