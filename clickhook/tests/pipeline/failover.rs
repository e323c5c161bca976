//! The control plane survives its leader: two real processes, the one that leads
//! killed again and again under writers that all want the same slugs.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    roles::{Installation, RoleProcess},
    support::{ADMIN_KEY, eventually, folder, http},
};

const WRITERS: usize = 16;
/// How many slugs go by between two kills.
const BETWEEN: usize = 15;
const PATIENCE: Duration = Duration::from_secs(60);

/// The outcome of a writer's request for a slug.
#[derive(Debug)]
enum SlugOutcome {
    /// It is this link.
    Created(String),
    /// Another has it.
    Taken,
    /// It is taken, perhaps by a call of the writer's own whose outcome it was not told.
    Unknown,
}

/// The state that all writers share.
#[derive(Default)]
struct WritersState {
    stop: AtomicBool,
    /// How many answers there were.
    answers: AtomicUsize,
}

/// Asks for one slug after the other until told to stop; gives back what it was
/// told of each. A call whose outcome is not known is repeated under its
/// `Idempotency-Key`.
fn write(writer: usize, addresses: [SocketAddr; 2], shared: &WritersState) -> Vec<SlugOutcome> {
    let (agent, mut told) = (http(), Vec::new());
    while !shared.stop.load(Ordering::Relaxed) {
        let n = told.len();
        let body = json!({"slug": format!("s{n}"), "destination": format!("https://a.example/{writer}")});
        let (mut attempt, mut known) = (0, true);
        let outcome = loop {
            let address = addresses[(writer + n + attempt) % 2];
            attempt += 1;
            let answer = agent
                .post(format!("http://{address}/v1/links"))
                .header("authorization", format!("Bearer {ADMIN_KEY}"))
                .header("idempotency-key", format!("{writer}-{n}"))
                .send_json(&body);
            let Ok(mut answer) = answer else {
                // Refused or cut off: that instance was killed.
                known = false;
                thread::sleep(Duration::from_millis(20));
                continue;
            };
            let status = answer.status().as_u16();
            let text = answer.body_mut().read_to_string().unwrap_or_default();
            match status {
                201 => {
                    let link: Value = serde_json::from_str(&text).unwrap();
                    break SlugOutcome::Created(link["id"].as_str().unwrap().to_owned());
                }
                409 => break if known { SlugOutcome::Taken } else { SlugOutcome::Unknown },
                503 => {
                    known = false;
                    thread::sleep(Duration::from_millis(20));
                }
                _ => panic!("{status} {text}"),
            }
        };
        told.push(outcome);
        shared.answers.fetch_add(1, Ordering::Relaxed);
    }
    told
}

fn get(address: SocketAddr, path: &str) -> (u16, Value) {
    let answer =
        http().get(format!("http://{address}{path}")).header("authorization", format!("Bearer {ADMIN_KEY}")).call();
    let mut answer = answer.unwrap();
    let text = answer.body_mut().read_to_string().unwrap();
    (answer.status().as_u16(), serde_json::from_str(&text).unwrap_or(Value::Null))
}

fn until_answers(shared: &WritersState, more: usize) {
    let goal = shared.answers.load(Ordering::Relaxed) + more;
    eventually("writers are answered", PATIENCE, || (shared.answers.load(Ordering::Relaxed) >= goal).then_some(()));
}

#[test]
fn a_slug_has_one_owner_and_no_acknowledged_write_is_lost_whichever_leader_is_killed() {
    let (_keep, dir) = folder();
    let installation = Installation::new(dir, testbed::kafka());
    let names = ["control-0", "control-1"];
    let addresses = [testbed::free_address(), testbed::free_address()];
    let start = |which: usize| installation.start_at("control", addresses[which], names[which]);
    let mut processes: Vec<Option<RoleProcess>> = vec![Some(start(0)), Some(start(1))];
    let running = |processes: &[Option<RoleProcess>]| {
        eventually("one leads and both are ready", PATIENCE, || {
            let all: Vec<&RoleProcess> = processes.iter().flatten().collect();
            (all.len() == 2 && all.iter().all(|process| process.is_ready())).then_some(())?;
            all.iter().position(|process| process.leads())
        })
    };
    let first = running(&processes);
    println!("{} leads first", names[first]);

    let shared = Arc::new(WritersState::default());
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let shared = Arc::clone(&shared);
            thread::spawn(move || write(writer, addresses, &shared))
        })
        .collect();
    for round in 0..4 {
        until_answers(&shared, BETWEEN * WRITERS);
        let leader = running(&processes);
        processes[leader].take().unwrap().kill();
        let killed = Instant::now();
        // In the last round it is started again at once, as a supervisor does:
        // under its own name it leads again without waiting for its session.
        if round == 3 {
            processes[leader] = Some(start(leader));
        }
        let next = eventually("another leads", PATIENCE, || {
            let mut all = processes.iter().enumerate();
            all.find_map(|(which, process)| process.as_ref().filter(|process| process.leads()).map(|_| which))
        });
        let leads = killed.elapsed();
        until_answers(&shared, 1);
        let answers = killed.elapsed();
        println!(
            "{} was killed: {} leads after {:.1} s, writers are answered after {:.1} s",
            names[leader],
            names[next],
            leads.as_secs_f64(),
            answers.as_secs_f64()
        );
        assert!(leads < Duration::from_secs(20), "a successor took {leads:?}");
        if processes[leader].is_none() {
            processes[leader] = Some(start(leader));
        }
    }
    until_answers(&shared, BETWEEN * WRITERS);
    shared.stop.store(true, Ordering::Relaxed);
    let told: Vec<Vec<SlugOutcome>> = writers.into_iter().map(|writer| writer.join().unwrap()).collect();
    running(&processes);

    let slugs = told.iter().map(Vec::len).max().unwrap();
    let (mut acknowledged, mut unknown) = (BTreeMap::new(), BTreeSet::new());
    for n in 0..slugs {
        let owners: Vec<&String> = told
            .iter()
            .filter_map(|told| match told.get(n)? {
                SlugOutcome::Created(id) => Some(id),
                SlugOutcome::Taken | SlugOutcome::Unknown => None,
            })
            .collect();
        if let [id] = owners.as_slice() {
            acknowledged.insert(format!("s{n}"), (*id).clone());
        } else {
            let explained = told.iter().any(|told| matches!(told.get(n), Some(SlugOutcome::Unknown)));
            assert!(owners.is_empty() && explained, "s{n} was given to {owners:?}");
            unknown.insert(format!("s{n}"));
        }
    }
    for address in addresses {
        for (slug, id) in &acknowledged {
            let (status, link) = get(address, &format!("/v1/links/{id}"));
            assert_eq!((status, &link["slug"]), (200, &json!(slug)), "{slug} {id} at {address}");
        }
    }
    // And there is no other link.
    let (mut listed, mut cursor) = (BTreeMap::new(), String::new());
    loop {
        let (_, page) = get(addresses[0], &format!("/v1/links?limit=200{cursor}"));
        for link in page["data"].as_array().unwrap() {
            let text = |field: &str| link[field].as_str().unwrap().to_owned();
            assert!(listed.insert(text("slug"), text("id")).is_none(), "{link}");
        }
        let Some(next) = page["next"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    let expected: BTreeSet<&String> = acknowledged.keys().chain(&unknown).collect();
    assert_eq!(listed.keys().collect::<BTreeSet<_>>(), expected);
    assert!(acknowledged.iter().all(|(slug, id)| listed.get(slug) == Some(id)));
    println!(
        "{slugs} slugs, {} of them with an owner that was not told, {} answers",
        unknown.len(),
        shared.answers.load(Ordering::Relaxed)
    );
}
