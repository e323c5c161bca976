//! The requests of browsers that follow a link, byte for byte the same for every
//! server.

use std::fmt::Write;

use crate::{
    agents,
    catalogue::{self, SLUG_BYTES},
    load::address_of,
    visitors::Script,
};

/// Heads that follow one another; each has an address and a click id of its own.
const HEADS: u32 = 4096;
const SLUG_AT: usize = "GET /".len();

/// The headers that a browser sends beside its user agent.
struct Browser {
    accept: &'static str,
    more: &'static str,
}

const SAFARI: Browser = Browser {
    accept: "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
    more: "Sec-Fetch-Dest: document\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Site: cross-site\r\nPriority: u=0, i\r\n",
};
const FIREFOX: Browser = Browser {
    accept: "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
    more: "Upgrade-Insecure-Requests: 1\r\nSec-Fetch-Dest: document\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Site: cross-site\r\nSec-Fetch-User: ?1\r\n",
};
const CHROME_ON_ANDROID: Browser = Browser {
    accept: "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,*/*;q=0.8",
    more: "Sec-Ch-Ua: \"Chromium\";v=\"154\", \"Google Chrome\";v=\"154\", \"Not=A?Brand\";v=\"24\"\r\nSec-Ch-Ua-Mobile: ?1\r\nSec-Ch-Ua-Platform: \"Android\"\r\nUpgrade-Insecure-Requests: 1\r\nSec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-User: ?1\r\nSec-Fetch-Dest: document\r\n",
};
const CHROME: Browser = Browser {
    accept: "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,*/*;q=0.8",
    more: "Sec-Ch-Ua: \"Chromium\";v=\"154\", \"Google Chrome\";v=\"154\", \"Not=A?Brand\";v=\"24\"\r\nSec-Ch-Ua-Mobile: ?0\r\nSec-Ch-Ua-Platform: \"Windows\"\r\nUpgrade-Insecure-Requests: 1\r\nSec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-User: ?1\r\nSec-Fetch-Dest: document\r\n",
};

/// Returns the headers of the browser that a user agent names.
fn browser(agent: &str) -> &'static Browser {
    let is_chrome = agent.contains(" Chrome/");
    if is_chrome && agent.contains("Android") {
        &CHROME_ON_ANDROID
    } else if is_chrome {
        &CHROME
    } else if agent.contains("Firefox/") {
        &FIREFOX
    } else {
        &SAFARI
    }
}

const REFERERS: [&str; 4] =
    ["https://www.instagram.com/", "https://t.co/", "https://www.google.com/", "https://newsletter.acme.example/"];

/// Requests for random links of the first `links`.
pub(crate) struct Requests {
    heads: Vec<Vec<u8>>,
    links: u64,
    next: u64,
}

impl Requests {
    pub(crate) fn new(links: u64) -> Self {
        Self { heads: (0..HEADS).map(request).collect(), links, next: 0 }
    }
}

impl Script for Requests {
    const WANTED: u16 = 302;

    fn next(&mut self) -> &[u8] {
        self.next += 1;
        let head = &mut self.heads[(self.next % u64::from(HEADS)) as usize];
        let number = self.next.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 16;
        head[SLUG_AT..SLUG_AT + SLUG_BYTES].copy_from_slice(&catalogue::slug(number % self.links));
        head
    }
}

fn request(number: u32) -> Vec<u8> {
    let agent = agents::agent(number);
    let Browser { accept, more } = browser(agent);
    let slug = String::from_utf8_lossy(&catalogue::slug(0)).into_owned();
    let mut request = format!(
        "GET /{slug}?utm_source=instagram&utm_medium=social&utm_campaign=winter-sale&gclid=Cj0KCQjw{number:08x}BhDeARIsAAQX \
         HTTP/1.1\r\nHost: go.acme.example\r\nUser-Agent: {agent}\r\nAccept: {accept}\r\n\
         Accept-Language: en-US,en;q=0.9\r\nAccept-Encoding: gzip, deflate, br\r\n{more}"
    );
    // Not everybody says where they come from.
    if !number.is_multiple_of(3) {
        let _ = write!(request, "Referer: {}\r\n", REFERERS[number as usize % REFERERS.len()]);
    }
    let _ = write!(request, "X-Forwarded-For: {}\r\nX-Forwarded-Proto: https\r\n\r\n", address_of(number));
    request.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_whole_and_for_links_that_are_there() {
        let mut requests = Requests::new(3);
        for _ in 0..100 {
            let request = requests.next().to_vec();
            let mut headers = [httparse::EMPTY_HEADER; 32];
            let mut parsed = httparse::Request::new(&mut headers);
            assert_eq!(parsed.parse(&request).unwrap(), httparse::Status::Complete(request.len()));
            let path = parsed.path.unwrap();
            assert!((0..3).any(|link| path.as_bytes()[1..].starts_with(&catalogue::slug(link))), "{path}");
        }
    }
}
