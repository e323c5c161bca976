//! The collection of links beside a plain tree, its searches, and what it takes of memory.

use bus::Change;
use proptest::prelude::*;
use schemas::Timestamp;
use serde_json::json;

use super::*;
use crate::state::collection::BTreeCollection;

fn link(id: u32, slug: &str, external_id: Option<&str>) -> Link {
    let mut link: Link = serde_json::from_value(json!({
        "id": LinkId::from_bits(u128::from(id)), "workspace": "default", "slug": slug, "destination": "https://a.example/",
        "short_url": "https://go.example/", "status_code": 302, "created_at": Timestamp::from_millis(0),
        "updated_at": Timestamp::from_millis(0), "revision": 1,
    }))
    .unwrap();
    link.external_id = external_id.map(ToOwned::to_owned);
    link.tags = vec![format!("t{}", id % 3)];
    link.campaign = id.is_multiple_of(2).then(|| "even".to_owned());
    link
}

proptest! {
    #[test]
    fn they_are_kept_as_a_tree_keeps_them(ops in prop::collection::vec((0_u32..40, 0_u8..12, 0_u8..5), 0..300)) {
        let (mut links, mut tree) = (LinkCollection::default(), BTreeCollection::<Link>::default());
        for (id, slug, op) in ops {
            if op == 0 {
                links.remove(&LinkId::from_bits(u128::from(id)));
                tree.remove(&LinkId::from_bits(u128::from(id)));
            } else {
                let external = (op == 1).then(|| format!("x{slug}"));
                let link = Arc::new(link(id, &format!("s{slug}"), external.as_deref()));
                links.insert(Arc::clone(&link));
                tree.insert(link);
            }
        }
        prop_assert_eq!(links.len(), tree.len());
        let mut by_slug: Vec<_> = tree.page(&WorkspaceId::default(), None, 100).0;
        by_slug.sort_by(|a, b| (&a.slug, a.id).cmp(&(&b.slug, b.id)));
        let ascending = LinkSort { field: SortField::Slug, direction: SortDirection::Ascending };
        let all = LinkFilter::default();
        let page = links.search_sorted(&WorkspaceId::default(), &all, ascending, None, 100);
        prop_assert_eq!(page.links, by_slug);
        let kept = tree.page(&WorkspaceId::default(), None, 100).0;
        let bytes = kept.iter().map(|link| serde_json::to_vec(link).unwrap().len()).sum::<usize>();
        let tally = links.tally(&WorkspaceId::default());
        prop_assert_eq!((tally.count(), tally.bytes()), (kept.len() as u64, bytes as u64));
        for tag in ["t0", "t1", "t2"] {
            let label = LinkLabel::Tag(tag.to_owned());
            let found: Vec<LinkId> = links.labelled(&WorkspaceId::default(), &label, None).collect();
            let tagged = kept.iter().filter(|link| link.tags[0] == tag).map(|link| link.id);
            prop_assert_eq!(found, tagged.collect::<Vec<_>>());
        }
        let workspace = WorkspaceId::default();
        prop_assert_eq!(links.page(&workspace, None, 100), tree.page(&workspace, None, 100));
        let before = LinkId::from_bits(20);
        prop_assert_eq!(links.page(&workspace, Some(&before), 5), tree.page(&workspace, Some(&before), 5));
        for slug in 0..12 {
            for key in [
                LinkKey::Address(workspace.clone(), None, format!("s{slug}")),
                LinkKey::External(workspace.clone(), format!("x{slug}")),
            ] {
                prop_assert_eq!(links.owner(&key), tree.owner(&key));
            }
        }
    }
}

#[test]
fn a_search_finds_what_fits_page_by_page() {
    let mut links = LinkCollection::default();
    for id in 0..200 {
        links.insert(Arc::new(link(id, &format!("s{id}"), None)));
    }
    let filter = LinkFilter { campaign: Some("even".to_owned()), tag: Some("t1".to_owned()), ..LinkFilter::default() };
    let (mut found, mut before) = (Vec::new(), None);
    loop {
        let page = links.search(&WorkspaceId::default(), &filter, before, 7);
        found.extend(page.links.iter().map(|link| link.id.bits()));
        before = page.next;
        if before.is_none() {
            break;
        }
    }
    let expected: Vec<u128> = (0..200).rev().filter(|id| id % 2 == 0 && id % 3 == 1).collect();
    assert_eq!(found, expected);
    let one = LinkFilter { slug: Some("s77".to_owned()), ..LinkFilter::default() };
    assert_eq!(links.search(&WorkspaceId::default(), &one, None, 7).links.len(), 1);
    assert!(links.search(&WorkspaceId::new("other"), &one, None, 7).links.is_empty());
    // Only the links that have the label are looked at.
    links.insert(Arc::new(Link { domain: Some("go.acme.co".to_owned()), ..link(3, "s3", None) }));
    let on_domain = LinkFilter { domain: Some("go.acme.co".to_owned()), ..LinkFilter::default() };
    let page = links.search(&WorkspaceId::default(), &on_domain, None, 7);
    assert_eq!((page.links.len(), page.read, page.next), (1, 1, None));
    let tags = links.tags(&WorkspaceId::default(), None, 2);
    assert_eq!(tags, (vec![("t0".to_owned(), 67), ("t1".to_owned(), 67)], true));
    assert_eq!(links.tags(&WorkspaceId::default(), Some("t1"), 2), (vec![("t2".to_owned(), 66)], false));
}

#[test]
fn limited_are_those_that_have_a_limit_left_to_reach() {
    let mut links = LinkCollection::default();
    let limit = |id: u32, max: Option<u64>, exhausted_at: Option<Timestamp>| {
        Arc::new(Link { max_clicks: max, exhausted_at, ..link(id, &format!("s{id}"), None) })
    };
    let at = Timestamp::from_millis(1);
    for new in [limit(1, Some(5), None), limit(2, None, None), limit(3, Some(6), None), limit(4, Some(7), Some(at))] {
        links.insert(new);
    }
    let ids = |links: &LinkCollection, after: Option<u128>, count| -> Vec<u128> {
        links.limited(after.map(LinkId::from_bits), count).iter().map(|limited| limited.id.bits()).collect()
    };
    assert_eq!(ids(&links, None, 9), [1, 3]);
    assert_eq!((ids(&links, None, 1), ids(&links, Some(1), 9)), (vec![1], vec![3]));
    links.insert(limit(1, Some(5), Some(at)));
    links.insert(limit(4, Some(8), None));
    links.remove(&LinkId::from_bits(3));
    assert_eq!(ids(&links, None, 9), [4]);
    let of = links.limited_of([1, 4, 9].into_iter().map(LinkId::from_bits));
    assert_eq!(of.iter().map(|limited| limited.id.bits()).collect::<Vec<_>>(), [4]);
    assert_eq!(links.limited(None, 9)[0].max_clicks, 8);
}

#[test]
fn deadlines_pass_in_their_order_and_follow_their_links() {
    let mut links = LinkCollection::default();
    let at = Timestamp::from_millis;
    let expiring = |id: u32, deadline: Option<i64>| {
        Arc::new(Link { expires_at: deadline.map(at), ..link(id, &format!("s{id}"), None) })
    };
    for new in [expiring(1, Some(30)), expiring(2, Some(10)), expiring(3, None), expiring(4, Some(20))] {
        links.insert(new);
    }
    let passed = |links: &LinkCollection, now, count| -> Vec<(i64, u128)> {
        let passed = links.passed_deadlines(at(now), count);
        passed.into_iter().map(|(deadline, id)| (deadline.as_millis(), id.bits())).collect()
    };
    assert_eq!(passed(&links, 25, 9), [(10, 2), (20, 4)]);
    assert_eq!(passed(&links, 99, 1), [(10, 2)]);
    links.insert(expiring(2, Some(50)));
    links.remove(&LinkId::from_bits(4));
    links.forget_deadlines(&[(at(30), LinkId::from_bits(1))]);
    assert_eq!(passed(&links, 99, 9), [(50, 2)]);
    links.insert(expiring(1, Some(30)));
    assert_eq!(passed(&links, 99, 9), [(30, 1), (50, 2)]);
}

/// Measures the memory of a link beside its JSON: `cargo test --release -p control --lib -- --ignored --nocapture a_million`.
#[test]
#[ignore = "a measurement"]
fn a_million_links() {
    for count in [1_000_000_u32, 5_000_000] {
        let mut links = LinkCollection::default();
        let (before, began) = (resident(), std::time::Instant::now());
        let mut json_bytes = 0;
        for id in 0..count {
            let value = serde_json::to_vec(&link(id, &format!("s{id}"), Some(&id.to_string()))).unwrap();
            json_bytes += value.len();
            let key = LinkId::from_bits(u128::from(id)).to_string();
            links.apply_record(&Change::Put { key: key.as_bytes(), value: &value }).unwrap();
        }
        let bytes = (resident() - before) as f64 / f64::from(count);
        let json = json_bytes as f64 / f64::from(count);
        println!(
            "{count} links with an external id: {:.1} s, {json:.0} bytes of JSON and {:.0} beside it each",
            began.elapsed().as_secs_f64(),
            bytes - json
        );
    }
}

fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
}

#[test]
fn links_are_listed_in_the_order_of_their_slugs_or_destinations() {
    let mut links = LinkCollection::filling();
    for id in 0..50 {
        let destination = format!("https://{}.example/{}", ["b", "a\u{fc}"][id as usize % 2], 99 - id);
        links.insert(Arc::new(Link { destination, ..link(id, &format!("s{}", (id * 7) % 50), None) }));
    }
    links.sort();
    // What comes later is kept in order.
    links.insert(Arc::new(link(50, "s\"0", None)));
    links.remove(&LinkId::from_bits(3));
    let pages = |sort: LinkSort, filter: &LinkFilter| {
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let page = links.search_sorted(&WorkspaceId::default(), filter, sort, after.as_ref(), 7);
            found.extend(page.links);
            after = page.next;
            if after.is_none() {
                return found;
            }
        }
    };
    let text = |link: &Arc<Link>, field| match field {
        SortField::Slug => link.slug.clone(),
        SortField::Destination => link.destination.clone(),
    };
    for field in [SortField::Slug, SortField::Destination] {
        let sort = |direction| LinkSort { field, direction };
        let up = pages(sort(SortDirection::Ascending), &LinkFilter::default());
        assert_eq!(up.len(), 50);
        let mut down = pages(sort(SortDirection::Descending), &LinkFilter::default());
        down.reverse();
        assert_eq!(up, down);
        let ordered =
            up.windows(2).all(|pair| (text(&pair[0], field), pair[0].id) < (text(&pair[1], field), pair[1].id));
        // In JSON a quote has a backslash before it.
        assert!(ordered || field == SortField::Slug, "{field:?}");
        let filter = LinkFilter { slug_prefix: Some("s4".to_owned()), ..LinkFilter::default() };
        let filtered = pages(sort(SortDirection::Descending), &filter);
        assert_eq!(filtered.len(), up.iter().filter(|link| link.slug.starts_with("s4")).count());
    }
    // A search without an order is newest first, and reads no others.
    let filter = LinkFilter { destination_prefix: Some("https://a\u{fc}.".to_owned()), ..LinkFilter::default() };
    let page = links.search(&WorkspaceId::default(), &filter, None, 100);
    let ids: Vec<u128> = page.links.iter().map(|link| link.id.bits()).collect();
    assert_eq!(ids, (0..50).rev().filter(|id| id % 2 == 1 && *id != 3).collect::<Vec<u128>>());
    assert_eq!(page.read, ids.len());
    let exact = links.leading_to(&WorkspaceId::default(), "https://b.example/99");
    assert_eq!(exact.iter().map(|link| link.id.bits()).collect::<Vec<_>>(), [0]);
}
