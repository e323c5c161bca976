//! The verified domains by their hosts, and the addresses to which they redirect where
//! no link does. Readers take no lock; one writer follows the `domains` topic.
//!
//! Until there is any domain, links without one answer on every host. From then on they
//! answer on the installation's own host, on this machine and on IP addresses alone: the
//! host of a domain that is not verified, or no longer, leads nowhere.

use std::{
    borrow::Cow,
    collections::HashMap,
    net::IpAddr,
    path::Path,
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bus::{Bus, BusError, Change, Table};
use foldhash::fast::RandomState;
use papaya::{HashMapRef, LocalGuard};
use parking_lot::Mutex;
use percent_encoding::percent_decode_str;
use schemas::{
    Domain, DomainId, Topic, WorkspaceId,
    ids::IdError,
    workspace::{SlugCase, TrailingSlash},
};
use tracing::error;

use crate::{metrics::IngestMetrics, table::location::LocationRules};

/// A domain's number, with which the addresses of its links begin. The same name in
/// another workspace has another number, so that links never follow a domain from one
/// owner to the next.
pub(crate) type DomainNumber = u32;
/// The number of all hosts without a domain.
pub(crate) const CATCH_ALL: DomainNumber = 0;

/// The answer of a domain where no link leads on.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum SiteAnswer {
    /// A redirect to an address, in ASCII.
    Redirect(Box<[u8]>),
    /// A page in HTML.
    Page(Box<str>),
}

/// A domain, ready to be served.
#[derive(Debug)]
pub(crate) struct Site {
    id: DomainId,
    pub(crate) number: DomainNumber,
    pub(crate) workspace: WorkspaceId,
    pub(crate) slug_case: SlugCase,
    pub(crate) trailing_slash: TrailingSlash,
    /// The destination of `/`, in ASCII.
    pub(crate) root: Option<Box<[u8]>>,
    /// The answer at addresses that no link has.
    pub(crate) fallback: Option<SiteAnswer>,
    /// The answer at links that have expired.
    pub(crate) expired: Option<SiteAnswer>,
}

type Sites = papaya::HashMap<Box<str>, Site, RandomState>;

#[derive(Default)]
struct SharedDomains {
    sites: Sites,
    numbers: Mutex<DomainNumbers>,
    /// The host on which links without a domain answer.
    own_host: Box<str>,
    /// Whether there was any domain, verified or not.
    any: AtomicBool,
}

/// Each domain keeps its number for as long as the process lives.
#[derive(Default)]
struct DomainNumbers {
    given: DomainNumber,
    by_name: HashMap<Box<str>, Vec<(WorkspaceId, DomainNumber)>>,
}

/// The readers' handle. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Domains(Arc<SharedDomains>);

/// The domains, held for the length of some lookups.
pub(crate) struct DomainsView<'d> {
    shared: &'d SharedDomains,
    sites: Option<HashMapRef<'d, Box<str>, Site, RandomState, LocalGuard<'d>>>,
}

/// The links that answer on a host.
#[derive(Clone, Copy, Debug)]
pub(crate) enum HostLinks<'d> {
    /// The links of a verified domain.
    Site(&'d Site),
    /// The links without a domain.
    CatchAll,
    /// No links at all.
    Nowhere,
}

impl<'d> HostLinks<'d> {
    /// Returns the domain.
    pub(crate) const fn site(self) -> Option<&'d Site> {
        match self {
            Self::Site(site) => Some(site),
            Self::CatchAll | Self::Nowhere => None,
        }
    }
}

impl Domains {
    /// Makes a table without domains. Links without a domain answer on `own_host`.
    pub(crate) fn answering_at(own_host: &str) -> Self {
        Self(Arc::new(SharedDomains { own_host: host_name(own_host).into(), ..SharedDomains::default() }))
    }

    /// Pins the domains as they are now.
    pub(crate) fn view(&self) -> DomainsView<'_> {
        let sites = &self.0.sites;
        DomainsView { shared: &self.0, sites: (!sites.is_empty()).then(|| sites.pin()) }
    }

    /// Returns the number of a workspace's domain, whether or not the domain is known yet.
    pub(crate) fn number(&self, workspace: &WorkspaceId, name: &str) -> DomainNumber {
        let DomainNumbers { given, by_name } = &mut *self.0.numbers.lock();
        let owners = by_name.get(name).map_or([].as_slice(), Vec::as_slice);
        if let Some((_, number)) = owners.iter().find(|(owner, _)| owner == workspace) {
            return *number;
        }
        // 4 billion domains do not fit in memory.
        *given += 1;
        by_name.entry(name.into()).or_default().push((workspace.clone(), *given));
        *given
    }
}

impl DomainsView<'_> {
    /// Finds the domain of a host, which is as in a `Host` header, port included.
    #[cfg(test)]
    pub(crate) fn find(&self, host: Option<&str>) -> Option<&Site> {
        self.links_of(host).site()
    }

    /// Returns the links that answer on a host, which is as in a `Host` header, port included.
    pub(crate) fn links_of(&self, host: Option<&str>) -> HostLinks<'_> {
        // A request without a host asks an address.
        let Some(host) = host else { return HostLinks::CatchAll };
        let name = host_name(host);
        if let Some(site) = self.sites.as_ref().and_then(|sites| sites.get(&*name)) {
            return HostLinks::Site(site);
        }
        let restricted = self.shared.any.load(Ordering::Relaxed);
        if !restricted || *name == *self.shared.own_host || is_address(&name) {
            HostLinks::CatchAll
        } else {
            HostLinks::Nowhere
        }
    }
}

/// Tells whether a host is an IP address, or this machine: no other tenant can own it.
fn is_address(name: &str) -> bool {
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    name.is_empty() || name == "localhost" || bare.parse::<IpAddr>().is_ok()
}

/// Reads the id in a record's key.
pub(crate) fn id_of<I: FromStr<Err = IdError>>(key: &[u8]) -> Result<I, String> {
    let key = str::from_utf8(key).map_err(|error| error.to_string())?;
    key.parse().map_err(|error: IdError| error.to_string())
}

/// Returns a host without its port and final dot, in lower case.
pub(crate) fn host_name(host: &str) -> Cow<'_, str> {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(name.to_ascii_lowercase())
    } else {
        Cow::Borrowed(name)
    }
}

fn answer(url: Option<Box<[u8]>>, page: Option<&str>) -> Option<SiteAnswer> {
    url.map(SiteAnswer::Redirect).or_else(|| page.map(|page| SiteAnswer::Page(page.into())))
}

/// Whether an address is the one that was asked for, so that a redirect to it would never
/// end. `path` is as it was sent.
pub(crate) fn leads_back(url: &[u8], host: Option<&str>, path: &str) -> bool {
    let Some((scheme, rest)) = str::from_utf8(url).ok().and_then(|url| url.split_once("://")) else { return false };
    if !scheme.eq_ignore_ascii_case("https") && !scheme.eq_ignore_ascii_case("http") {
        return false;
    }
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    let (own_host, own_path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let own_path = if own_path.is_empty() { "/" } else { own_path };
    host.is_some_and(|host| host_name(host) == host_name(own_host))
        && percent_decode_str(own_path).eq(percent_decode_str(path))
}

/// The writer's handle, of which there is one.
pub(crate) struct DomainsWriter {
    domains: Domains,
    rules: LocationRules,
    names: HashMap<DomainId, Box<str>>,
}

impl DomainsWriter {
    pub(crate) fn new(domains: Domains, rules: LocationRules) -> Self {
        Self { domains, rules, names: HashMap::new() }
    }

    /// Adds or replaces a domain.
    pub(crate) fn put(&mut self, domain: &Domain) {
        let name: Box<str> = domain.name.as_str().into();
        self.domains.0.any.store(true, Ordering::Relaxed);
        if self.names.get(&domain.id).is_some_and(|before| *before != name) {
            self.delete(domain.id);
        }
        if domain.verified_at.is_none() || domain.deleted_at.is_some() {
            self.delete(domain.id);
            return;
        }
        let url = |key: &str, url: &Option<String>| {
            let url = url.as_deref()?;
            self.rules.check(url).map(|url| url.as_bytes().into()).inspect_err(|reason| {
                error!(domain = %name, key, %reason, "an address of a domain cannot be redirected to: set another through the API");
            }).ok()
        };
        let site = Site {
            id: domain.id,
            number: self.domains.number(&domain.workspace, &name),
            workspace: domain.workspace.clone(),
            slug_case: domain.slug_case,
            trailing_slash: domain.trailing_slash,
            root: url("root_url", &domain.root_url),
            fallback: answer(url("fallback_url", &domain.fallback_url), domain.fallback_html.as_deref()),
            expired: answer(url("expired_url", &domain.expired_url), domain.expired_html.as_deref()),
        };
        self.domains.0.sites.pin().insert(name.clone(), site);
        self.names.insert(domain.id, name);
    }

    /// Removes a domain.
    pub(crate) fn delete(&mut self, id: DomainId) {
        let Some(name) = self.names.remove(&id) else { return };
        let sites = self.domains.0.sites.pin();
        // Another may have been made under the name since.
        if sites.get(&name).is_some_and(|site| site.id == id) {
            sites.remove(&name);
        }
    }

    /// Follows the topic, and keeps a snapshot in `dir`.
    pub(crate) fn follow(mut self, bus: &Bus, dir: &Path, metrics: IngestMetrics) -> Result<Table, BusError> {
        bus.table("ingest", Topic::Domains, Some(dir), move |change| {
            let done = match change {
                Change::Put { value, .. } => serde_json::from_slice::<Domain>(value)
                    .map(|domain| self.put(&domain))
                    .map_err(|error| error.to_string()),
                Change::Delete { key } => id_of(key).map(|id| self.delete(id)),
                Change::Coming { .. } | Change::CaughtUp => return,
            };
            if let Err(reason) = done {
                error!(reason, "a domain cannot be read: write it anew through the API");
            }
            metrics.domains.set(i64::try_from(self.names.len()).unwrap_or(i64::MAX));
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use schemas::{AppSchemes, sample::plain_domain};

    use super::*;

    pub(crate) fn rules() -> LocationRules {
        let schemes = AppSchemes::try_from(vec!["myapp".to_owned()]).unwrap();
        LocationRules { schemes, click_id_param: "ch_click_id".into() }
    }

    pub(crate) fn domain(id: u128, name: &str) -> Domain {
        plain_domain(DomainId::from_bits(id), name)
    }

    fn found(domains: &Domains, host: &str) -> Option<DomainNumber> {
        domains.view().find(Some(host)).map(|site| site.number)
    }

    #[test]
    fn a_host_is_the_domain_that_was_verified() {
        let domains = Domains::default();
        let mut writer = DomainsWriter::new(domains.clone(), rules());
        assert_eq!(found(&domains, "go.acme.co"), None);
        writer.put(&Domain { verified_at: None, ..domain(1, "go.acme.co") });
        assert_eq!(found(&domains, "go.acme.co"), None);
        writer.put(&domain(1, "go.acme.co"));
        for host in ["go.acme.co", "GO.acme.co.", "go.acme.co:443", "go.acme.co.:8080"] {
            assert_eq!(found(&domains, host), Some(1), "{host}");
        }
        for host in ["acme.co", "x.go.acme.co", "go.acme.co:x", "go.acme.co..", "[::1]:80", ""] {
            assert_eq!(found(&domains, host), None, "{host}");
        }
        assert!(domains.view().find(None).is_none());
        writer.put(&Domain { verified_at: None, ..domain(1, "go.acme.co") });
        assert_eq!(found(&domains, "go.acme.co"), None);
    }

    #[test]
    fn links_without_a_domain_answer_everywhere_until_there_is_a_domain() {
        let domains = Domains::answering_at("go.example.com");
        let mut writer = DomainsWriter::new(domains.clone(), rules());
        let answers = |host: Option<&str>| match domains.view().links_of(host) {
            HostLinks::Site(_) => "site",
            HostLinks::CatchAll => "catch-all",
            HostLinks::Nowhere => "nowhere",
        };
        assert_eq!(answers(Some("go.acme.co")), "catch-all");
        // A domain that is not proven, or no longer, is nobody's host.
        let unproven = Domain { verified_at: None, ..domain(1, "go.acme.co") };
        writer.put(&unproven);
        for (host, expected) in [
            (Some("go.acme.co"), "nowhere"),
            (Some("any.other.host:8080"), "nowhere"),
            (Some("GO.example.com.:443"), "catch-all"),
            (Some("192.0.2.1:8080"), "catch-all"),
            (Some("[2001:db8::1]:8080"), "catch-all"),
            (Some("[2001:db8::1]"), "catch-all"),
            (Some("localhost:8080"), "catch-all"),
            (Some("localhost.acme.co"), "nowhere"),
            (None, "catch-all"),
        ] {
            assert_eq!(answers(host), expected, "{host:?}");
        }
        writer.put(&domain(1, "go.acme.co"));
        assert_eq!(answers(Some("go.acme.co")), "site");
        writer.put(&Domain { deleted_at: Some(schemas::Timestamp::from_millis(1)), ..domain(1, "go.acme.co") });
        assert_eq!(answers(Some("go.acme.co")), "nowhere");
        writer.delete(DomainId::from_bits(1));
        assert_eq!(answers(Some("go.acme.co")), "nowhere");
        // A tenant who lists the installation's own host takes nothing.
        writer.put(&Domain { verified_at: None, ..domain(2, "go.example.com") });
        assert_eq!(answers(Some("go.example.com")), "catch-all");
    }

    #[test]
    fn a_domain_that_changes_hands_changes_its_number() {
        let domains = Domains::default();
        let mut writer = DomainsWriter::new(domains.clone(), rules());
        writer.put(&domain(1, "go.acme.co"));
        let before = found(&domains, "go.acme.co");
        let elsewhere = Domain { workspace: WorkspaceId::new("other"), ..domain(2, "go.acme.co") };
        writer.put(&elsewhere);
        let after = found(&domains, "go.acme.co");
        assert!(after.is_some() && after != before);
        // The former owner's end does not take it away.
        writer.delete(DomainId::from_bits(1));
        assert_eq!(found(&domains, "go.acme.co"), after);
        writer.delete(DomainId::from_bits(2));
        assert_eq!(found(&domains, "go.acme.co"), None);
        assert_eq!(domains.number(&WorkspaceId::default(), "go.acme.co"), before.unwrap());
    }

    #[test]
    fn addresses_that_cannot_be_sent_are_left_out() {
        let domains = Domains::default();
        let url = |url: &str| Some(url.to_owned());
        DomainsWriter::new(domains.clone(), rules()).put(&Domain {
            root_url: url("https://acme.co/\u{fc}"),
            fallback_url: url("javascript:alert(1)"),
            expired_url: url("myapp://over"),
            ..domain(1, "go.acme.co")
        });
        let look = domains.view();
        let site = look.find(Some("go.acme.co")).unwrap();
        assert_eq!(site.root.as_deref(), Some(b"https://acme.co/%C3%BC".as_slice()));
        assert_eq!(site.fallback, None);
        assert_eq!(site.expired, Some(SiteAnswer::Redirect(b"myapp://over".as_slice().into())));
    }

    #[test]
    fn an_address_that_leads_back_is_known() {
        for (url, path, expected) in [
            ("https://go.acme.co/a", "/a", true),
            ("http://GO.acme.co:80/%61?x#y", "/a", true),
            ("https://go.acme.co", "/", true),
            ("https://go.acme.co/a", "/b", false),
            ("https://go.acme.co.evil.example/a", "/a", false),
            ("https://other.example/a", "/a", false),
            ("myapp://go.acme.co/a", "/a", false),
            ("myapp:a", "/a", false),
        ] {
            assert_eq!(leads_back(url.as_bytes(), Some("go.acme.co:8080"), path), expected, "{url} {path}");
        }
        assert!(!leads_back(b"https://go.acme.co/a", None, "/a"));
    }
}
