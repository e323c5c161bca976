//! The kinds of sources of a visit.

/// The kind of source that a visit came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Medium {
    /// A search engine.
    Search,
    /// A social network.
    Social,
    /// A mailbox, a newsletter, or a gateway that scans mails.
    Email,
    /// A text message.
    Sms,
    /// An assistant or answer engine.
    Ai,
    /// A site for videos.
    Video,
    /// A messenger.
    Chat,
    /// A tool that people work with.
    Work,
    /// A site that collects news.
    News,
    /// A paid ad.
    Ads,
    /// A partner who earns a commission.
    Affiliate,
    /// The link's own domain, or the site that the link leads to.
    Internal,
    /// No source is known: typed, bookmarked, or kept secret.
    Direct,
    /// Another site.
    Unknown,
}

impl Medium {
    /// Returns the name in events and rows.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Search => "search",
            Self::Social => "social",
            Self::Email => "email",
            Self::Sms => "sms",
            Self::Ai => "ai",
            Self::Video => "video",
            Self::Chat => "chat",
            Self::Work => "work",
            Self::News => "news",
            Self::Ads => "ads",
            Self::Affiliate => "affiliate",
            Self::Internal => "internal",
            Self::Direct => "direct",
            Self::Unknown => "unknown",
        }
    }

    /// Returns the kind that a `utm_medium` means, whose spelling is anybody's:
    /// `Paid_Social`, `e-mail`, `CPC`.
    pub(super) fn of_utm(utm_medium: &str) -> Option<Self> {
        /// No known word is longer than this, without what separates its parts.
        const LONGEST: usize = 24;
        let mut word = String::with_capacity(LONGEST);
        for letter in utm_medium.chars().filter(|letter| letter.is_alphanumeric()) {
            if word.len() >= LONGEST {
                return None;
            }
            word.extend(letter.to_lowercase());
        }
        let medium = match word.as_str() {
            "cpc" | "ppc" | "cpm" | "cpv" | "cpp" | "cpa" | "cpi" | "ad" | "ads" | "adwords" | "paid"
            | "paidsearch" | "searchpaid" | "paidsocial" | "socialpaid" | "paidmedia" | "paidvideo"
            | "paidshopping" | "sem" | "display" | "banner" | "banners" | "interstitial" | "retargeting"
            | "remarketing" | "programmatic" | "native" | "nativeads" | "sponsored" | "advertising" | "advertorial"
            | "searchads" | "socialads" | "videoads" | "pmax" | "shopping" => Self::Ads,
            "affiliate" | "affiliates" | "affiliation" | "partner" | "partners" | "partnership" => Self::Affiliate,
            "email" | "emails" | "mail" | "mailing" | "newsletter" | "newsletters" | "edm" => Self::Email,
            "sms" | "text" | "mms" | "rcs" => Self::Sms,
            "social" | "socialmedia" | "socialnetwork" | "sm" | "smm" | "organicsocial" | "socialorganic" | "story"
            | "stories" | "bio" | "post" | "influencer" => Self::Social,
            "organic" | "search" | "organicsearch" | "seo" => Self::Search,
            "video" | "organicvideo" => Self::Video,
            "chat" | "messenger" | "messaging" | "im" | "whatsapp" | "telegram" => Self::Chat,
            "ai" | "llm" | "aiassistant" | "chatbot" => Self::Ai,
            "news" => Self::News,
            _ => return None,
        };
        Some(medium)
    }
}
