//! The target of an endpoint's requests, parsed once from its URL: the origin that is
//! connected to, and what stands in the request.

use std::sync::Arc;

use http::{HeaderValue, Uri, uri::Scheme};

/// The scheme, host and port that a connection leads to. Connections are kept by it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct EndpointOrigin {
    pub(super) tls: bool,
    /// The host as the URL has it, an IPv6 address without its brackets.
    pub(super) host: String,
    pub(super) port: u16,
}

/// The target of an endpoint's requests.
#[derive(Clone, Debug)]
pub(crate) struct RequestTarget {
    pub(super) origin: Arc<EndpointOrigin>,
    /// The whole URL, as HTTP/2 names it.
    pub(super) absolute: Uri,
    /// The path and the query, as HTTP/1 names it.
    pub(super) path: Uri,
    /// The value of `Host`.
    pub(super) host: HeaderValue,
}

impl RequestTarget {
    /// Parses a URL as browsers do, so that the host that is checked is the host that is
    /// connected to.
    ///
    /// # Errors
    /// The reason why nothing can be sent to the URL.
    pub(crate) fn parse(url: &str) -> Result<Self, String> {
        let url = url::Url::parse(url).map_err(|error| format!("its URL cannot be parsed: {error}"))?;
        let tls = match url.scheme() {
            "https" => true,
            "http" => false,
            _ => return Err("its URL begins with neither https:// nor http://".to_owned()),
        };
        let no_host = || "its URL has no host".to_owned();
        let named = url.host_str().ok_or_else(no_host)?;
        let port = url.port_or_known_default().ok_or_else(no_host)?;
        let authority = url.port().map_or_else(|| named.to_owned(), |port| format!("{named}:{port}"));
        let unusable = |error: http::Error| format!("its URL cannot be used in a request: {error}");
        let path = &url[url::Position::BeforePath..url::Position::AfterQuery];
        let absolute = Uri::builder()
            .scheme(if tls { Scheme::HTTPS } else { Scheme::HTTP })
            .authority(authority.as_str())
            .path_and_query(path)
            .build()
            .map_err(unusable)?;
        let host = named.trim_start_matches('[').trim_end_matches(']').to_owned();
        Ok(Self {
            origin: Arc::new(EndpointOrigin { tls, host, port }),
            path: Uri::builder().path_and_query(path).build().map_err(unusable)?,
            absolute,
            host: HeaderValue::try_from(authority).map_err(|error| unusable(error.into()))?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_sent_as_it_is_written() {
        for (url, host, path) in [
            ("https://acme.com", "acme.com", "/"),
            ("https://acme.com:443/a%2Fb//c?x=%zz&a[]=1#part", "acme.com", "/a%2Fb//c?x=%zz&a[]=1"),
            ("http://acme.com:8080/?", "acme.com:8080", "/?"),
            ("https://me:hush@dot.example.:29601/", "dot.example.:29601", "/"),
            ("https://[::FFFF:1.2.3.4]:8443/", "[::ffff:102:304]:8443", "/"),
            ("https://0x7f.1/", "127.0.0.1", "/"),
        ] {
            let target = RequestTarget::parse(url).unwrap();
            assert_eq!(target.host, host, "{url}");
            assert_eq!(target.path.to_string(), path, "{url}");
            let scheme = url.split(':').next().unwrap();
            assert_eq!(target.absolute.to_string(), format!("{scheme}://{host}{path}"), "{url}");
        }
        assert_eq!(RequestTarget::parse("https://[::1]/").unwrap().origin.host, "::1");
        assert!(RequestTarget::parse("ftp://acme.com/").is_err());
        assert!(RequestTarget::parse("acme.com").is_err());
    }
}
