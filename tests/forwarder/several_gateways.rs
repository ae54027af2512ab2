//! Several gateways: one scrape is pushed to each, and the failure of one harms no other.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::process::geteuid;

use crate::docs;
use crate::fake::{Fake, exposition, hang, response};
use crate::host::{Complete, kill, require, unused_address, wait_for};
use crate::run::{Ended, Run, copy_program};
use crate::servers::{Server, count_pushes, families, query_once, replace};
use crate::tls_and_credentials::{Files, PASSWORD};

/// An exporter with one sample.
fn small_exporter() -> Fake {
    Fake::answering(|_| exposition("a 1\n"))
}

/// A gateway that refuses every request.
fn refusing_gateway() -> Fake {
    Fake::answering(|_| response(400, "", "not here"))
}

fn addresses<'a>(failures: &[(&'a str, i32)]) -> Vec<&'a str> {
    failures.iter().map(|(address, _)| *address).collect()
}

/// Asserts that a run failed with the highest of these statuses, and has one line for each of the addresses
/// with its own status.
#[track_caller]
fn failed_at(ended: &Ended, failures: &[(&str, i32)]) {
    assert_eq!(ended.status, failures.iter().map(|(_, status)| *status).max(), "{ended:?}");
    let lines: Vec<_> = ended.stderr.lines().collect();
    assert_eq!(lines.len(), failures.len(), "{ended:?}");
    for (line, (address, status)) in lines.iter().zip(failures) {
        let start = format!("pgw-forwarder: error: gateway http://{address}/metrics");
        assert!(line.starts_with(&start), "{address}: {ended:?}");
        assert!(line.ends_with(&format!("(exit status {status})")), "{address}: {ended:?}");
    }
}

#[test]
fn one_scrape_is_pushed_to_every_gateway_as_the_same_bytes() {
    let node_exporter = Server::node_exporter();
    let gateways = [(); 3].map(|()| Server::pushgateway(&[]));
    for compression in ["none", "gzip"] {
        let exporter = Fake::in_front_of(&node_exporter.addr);
        let fronts = gateways.each_ref().map(|gateway| Fake::in_front_of(&gateway.addr));
        let list = fronts.each_ref().map(|front| front.addr.as_str()).join(",");
        let run = Run::new(&exporter.addr, &list).instance(compression);
        run.env("PGW_COMPRESSION", compression).end().succeeded();

        assert_eq!(exporter.requests().len(), 1);
        let pushes = fronts.map(|front| front.requests());
        assert!(pushes.iter().all(|pushes| pushes.len() == 1));
        assert!(pushes.iter().all(|all| all[0].body == pushes[0][0].body));
        for gateway in &gateways {
            let families = families(&gateway.group(compression).unwrap());
            assert!(families.len() > 100, "{compression}: {families:?}");
        }
    }
}

#[test]
fn failing_gateway_does_not_block_others_and_the_highest_status_wins() {
    let exporter = Server::node_exporter();
    let (one, other) = (Server::pushgateway(&[]), Server::pushgateway(&[]));
    let (dead, hanging, refusing) = (unused_address(), Fake::raw(hang), refusing_gateway());
    let dead = (&*dead, 6);
    let hanging = (&*hanging.addr, 6);
    let refusing = (&*refusing.addr, 7);
    for failures in
        [&[dead][..], &[hanging], &[refusing], &[dead, hanging], &[refusing, hanging, dead]]
    {
        let bad = addresses(failures);
        let good = [&*one.addr, &*other.addr];
        let lists = [
            ("last", [&good, &*bad].concat()),
            ("first", [&*bad, &good].concat()),
            ("among", [&good[..1], &bad, &good[1..]].concat()),
            ("around", [&bad[..1], &good, &bad[1..]].concat()),
        ];
        let runs = lists.map(|(position, list)| {
            let instance = format!("{failures:?} {position}");
            let run = Run::new(&exporter.addr, &list.join(",")).instance(&instance);
            (run.env("PGW_PUSH_TIMEOUT", "3").start(), instance)
        });
        for (run, instance) in runs {
            let ended = Ended::new(run.complete());
            failed_at(&ended, failures);
            for gateway in [&one, &other] {
                let group = gateway.group(&instance).expect(&instance);
                assert!(families(&group).len() > 100, "{instance}");
            }
        }
    }
    let all_bad = [dead, refusing, hanging];
    let run = Run::new(&exporter.addr, &addresses(&all_bad).join(","));
    failed_at(&run.env("PGW_PUSH_TIMEOUT", "1").end(), &all_bad);
    let quiet = Run::new(&exporter.addr, &format!("{},{}", dead.0, refusing.0)).arg("-q").end();
    assert_eq!((quiet.status, &*quiet.stderr), (Some(7), ""));
}

#[test]
fn all_gateways_are_served_at_the_same_time() {
    let exporter = Server::node_exporter();
    let gateways = [(); 3].map(|()| Server::pushgateway(&[]));
    let list = gateways.each_ref().map(|gateway| &*gateway.addr).join(",");
    for (instance, stopped) in [("first", 0), ("last", 2)] {
        gateways[stopped].pause(true);
        let run = Run::new(&exporter.addr, &list).instance(instance);
        let mut run = run.env("PGW_PUSH_TIMEOUT", "86400").start();
        for (index, gateway) in gateways.iter().enumerate() {
            if index != stopped {
                wait_for("the push", || gateway.group(instance));
            }
        }
        assert!(run.try_wait().unwrap().is_none());
        gateways[stopped].pause(false);
        Ended::new(run.complete()).succeeded();
        assert!(gateways[stopped].group(instance).is_some());
    }
    // So several that hang take no longer than one.
    let hanging = [(); 3].map(|()| Fake::after_request(hang));
    let list = hanging.each_ref().map(|fake| &*fake.addr).join(",");
    let run = Run::new(&exporter.addr, &list);
    let mut run = run.env("PGW_PUSH_TIMEOUT", "86400").start();
    for gateway in &hanging {
        wait_for("the push", || gateway.requests().pop());
    }
    kill(&mut run);
}

#[test]
fn nothing_is_pushed_to_any_gateway_without_a_complete_scrape() {
    let gateways = [(); 2].map(|()| Fake::answering(|_| response(200, "", "")));
    let list = gateways.each_ref().map(|fake| &*fake.addr).join(",");
    Run::new(&unused_address(), &list).end().failed(4, &["is down"]);
    let empty = Fake::answering(|_| exposition(""));
    Run::new(&empty.addr, &list).end().failed(5, &["empty"]);
    let dry = Run::new(&small_exporter().addr, &list).arg("--dry-run").end();
    dry.succeeded();
    assert_eq!(dry.stdout, b"a 1\n");
    assert!(gateways.iter().all(|gateway| gateway.requests().is_empty()));
}

#[test]
fn group_is_deleted_from_every_gateway() {
    let exporter = small_exporter();
    let (one, other, refusing) =
        (Server::pushgateway(&[]), Server::pushgateway(&[]), refusing_gateway());
    let list = format!("{},{},{}", one.addr, refusing.addr, other.addr);
    let run = |instance: &str| Run::new(&exporter.addr, &list).instance(instance);
    let failures = [(&*refusing.addr, 7)];
    for instance in ["going", "staying"] {
        failed_at(&run(instance).end(), &failures);
    }
    failed_at(&run("going").arg("--delete").end(), &failures);
    for gateway in [one, other] {
        assert!(gateway.group("going").is_none());
        assert!(gateway.group("staying").is_some());
    }
}

#[test]
fn stale_groups_are_pruned_from_every_gateway() {
    let exporter = small_exporter();
    let gateways = [(); 3].map(|()| Server::pushgateway(&[]));
    let list = gateways.each_ref().map(|gateway| &*gateway.addr).join(",");
    for (instance, gateway) in ["a", "b", "c"].into_iter().zip(&gateways) {
        for instance in [instance, "in all"] {
            Run::new(&exporter.addr, &gateway.addr).instance(instance).end().succeeded();
        }
    }
    let prune = || Run::new("127.0.0.1:1", &list).args(&["--prune", "1"]);
    let listed = wait_for("the groups to grow old", || {
        let ended = prune().arg("--dry-run").end();
        ended.succeeded();
        let listed = String::from_utf8(ended.stdout).unwrap();
        (listed.lines().count() == 6).then_some(listed)
    });
    for (index, instance) in ["a", "b", "c"].iter().enumerate() {
        for instance in [instance, "in all"] {
            let address = &gateways[index].addr;
            let group = format!("{{instance=\"{instance}\",job=\"node\"}}, last pushed ");
            assert!(listed.contains(&format!("http://{address}: {group}")), "{listed}");
        }
    }
    assert!(gateways.iter().all(|gateway| gateway.groups().len() == 2));

    gateways[0].pause(true);
    let ended = prune().env("PGW_PUSH_TIMEOUT", "3").end();
    gateways[0].pause(false);
    failed_at(&ended, &[(&gateways[0].addr, 6)]);
    assert_eq!(gateways[0].groups().len(), 2);
    prune().end().succeeded();
    wait_for("the deletions", || {
        gateways.iter().all(|gateway| gateway.groups().is_empty()).then_some(())
    });
}

#[test]
fn run_locks_out_every_run_for_the_same_group_on_one_of_its_gateways() {
    let gateways = [(); 3].map(|()| Server::pushgateway(&[]));
    let [a, b, c] = gateways.each_ref().map(|gateway| &*gateway.addr);
    let (stuck, exporter) = (Fake::after_request(hang), small_exporter());
    let hold = |gateways: &[&str]| -> Child {
        let scrapes = stuck.requests().len();
        let run = Run::new(&stuck.addr, &gateways.join(",")).instance("n").start();
        wait_for("the scrape", || (stuck.requests().len() > scrapes).then_some(()));
        run
    };
    let run = |gateways: &[&str]| Run::new(&exporter.addr, &gateways.join(",")).instance("n");

    let mut holder = hold(&[a, b]);
    let pid = format!("PID {}", holder.id());
    for gateways in [&[a][..], &[b], &[a, b], &[b, a], &[b, c], &[c, a], &[c, b, a]] {
        run(gateways).end().failed(3, &["another run", &pid]);
    }
    run(&[b, c]).arg("--delete").end().failed(3, &["another run", &pid]);
    assert!(exporter.requests().is_empty(), "a locked-out run has contacted the exporter");
    // The runs that were locked out at one gateway have released the locks of the others.
    run(&[c]).end().succeeded();
    run(&[a, b]).instance("another").end().succeeded();
    kill(&mut holder);
    run(&[a, b, c]).end().succeeded();
    assert_eq!([a, b, c].map(count_pushes), [2, 2, 2]);

    let mut holder = hold(&[b]);
    run(&[a, b]).end().failed(3, &["another run", &format!("PID {}", holder.id())]);
    run(&[a, c]).end().succeeded();
    kill(&mut holder);

    let silent = Fake::raw(hang);
    let prune =
        |gateways: &[&str]| Run::new("127.0.0.1:1", &gateways.join(",")).args(&["--prune", "60"]);
    let mut holder = prune(&[a, &silent.addr]).start();
    wait_for("the prune", || silent.requests().pop());
    let pid = format!("PID {}", holder.id());
    prune(&[b, a]).end().failed(3, &["another run", &pid]);
    prune(&[b, c]).end().succeeded();
    kill(&mut holder);
}

#[test]
fn runs_with_gateways_in_opposite_orders_do_not_lock_each_other_out() {
    let exporter = small_exporter();
    let [a, b] = [unused_address(), unused_address()];
    let lists = [format!("{a},{b}"), format!("{b},{a}")];
    for _ in 0..100 {
        let runs = lists.each_ref().map(|list| Run::new(&exporter.addr, list).start());
        let statuses = runs.map(|run| run.complete().status.code());
        assert!(statuses.contains(&Some(6)), "{statuses:?}");
    }
}

#[test]
fn credentials_in_an_address_go_to_that_gateway_alone_and_those_of_options_to_all() {
    let exporter = small_exporter();
    let files = Files::new();
    let config = files.file("plain-login.yml");
    let guarded = [(); 2].map(|()| Server::secured_pushgateway("127.0.0.1", &config));
    let open = Server::pushgateway(&[]);
    let fronts = [&guarded[0], &guarded[1], &open].map(|gateway| Fake::in_front_of(&gateway.addr));
    let [one, other, open] = fronts.each_ref().map(|front| &*front.addr);
    let with = |addr: &str| format!("node:{PASSWORD}@{addr}");
    let run = |list: &[&str]| Run::new(&exporter.addr, &list.join(","));
    // For each gateway, whether the last push to it had credentials.
    let had_credentials = || {
        fronts.each_ref().map(|front| {
            let push = front.requests().pop().unwrap();
            push.header("authorization").is_some()
        })
    };

    let ended = run(&[&with(one), other, open]).end();
    failed_at(&ended, &[(other, 7)]);
    assert_eq!(had_credentials(), [true, false, false]);
    run(&[open, &with(other), &with(one)]).end().succeeded();
    assert_eq!(had_credentials(), [true, true, false]);
    let file = files.file("password");
    let by_options = |run: Run| run.env("PGW_USER", "node").env("PGW_PASSWORD_FILE", &file);
    by_options(run(&[one, open, other])).end().succeeded();
    assert_eq!(had_credentials(), [true, true, true]);
    run(&[one, open, other]).env("PGW_TOKEN", "a-token").end();
    assert_eq!(had_credentials(), [true, true, true]);

    let pushes = || fronts.each_ref().map(|front| front.requests().len());
    let before = pushes();
    let both = by_options(run(&[open, &with(one)])).end();
    both.failed(2, &["--pgw-user", "use only one of"]);
    assert_eq!(pushes(), before);
}

#[test]
fn no_proxy_applies_to_each_gateway_on_its_own() {
    let exporter = small_exporter();
    let [one, other] = [(); 2].map(|()| Server::pushgateway(&[]));
    let proxy = Server::tinyproxy("");
    let by_name = other.addr.replace("127.0.0.1", "localhost");
    let run = |proxy: &str| {
        let run = Run::new(&exporter.addr, &format!("{},{by_name}", one.addr));
        run.instance("n").env("no_proxy", "localhost").env("http_proxy", proxy)
    };
    run(&proxy.addr).end().succeeded();
    assert!(one.group("n").is_some() && other.group("n").is_some());
    let log = proxy.log();
    assert!(log.contains(&format!("POST http://{}/metrics/", one.addr)), "{log}");
    assert!(!log.contains("localhost"), "{log}");

    let ended = run("127.0.0.1:1").instance("m").end();
    failed_at(&ended, &[(&one.addr, 6)]);
    for words in ["(through the proxy http://127.0.0.1:1)", "Check that both run"] {
        assert!(ended.stderr.contains(words), "{ended:?}");
    }
    assert!(one.group("m").is_none() && other.group("m").is_some());
}

#[test]
fn blanks_around_addresses_are_allowed() {
    let exporter = small_exporter();
    let gateways = [(); 2].map(|()| Server::pushgateway(&[]));
    let list = format!(" {}, \t{} ", gateways[0].addr, gateways[1].addr);
    Run::new(&exporter.addr, &list).end().succeeded();
    assert_eq!(gateways.each_ref().map(|gateway| gateway.groups().len()), [1, 1]);
}

#[test]
fn unusable_list_is_a_usage_error_that_shows_no_secret() {
    let server = small_exporter();
    let good = &*server.addr;
    let (port, general) = ("a port is a number from 1 to 65535", "use host:port");
    for (list, words) in [
        ("GOOD,GOOD", "http://GOOD is given twice"),
        ("GOOD, GOOD ", "http://GOOD is given twice"),
        ("GOOD,b,http://GOOD/", "http://GOOD is given twice"),
        ("u:geheim@GOOD,GOOD", "http://GOOD is given twice"),
        ("host:80,GOOD,HOST", "http://host is given twice"),
        ("http://host/,host:80", "http://host is given twice"),
        ("https://host:443,https://host", "https://host is given twice"),
        ("host/a,host/a/", "http://host/a is given twice"),
        ("[::1]:1,[0:0::1]:1", "http://[::1]:1 is given twice"),
        ("GOOD,", general),
        (",GOOD", general),
        ("GOOD,,b", general),
        ("GOOD, ,b", general),
        ("GOOD b", general),
        ("GOOD;b", port),
        ("GOOD,ftp://b", general),
        ("GOOD,unix:/run/x.sock", "a gateway cannot be a Unix socket"),
        ("u:geheim@GOOD,ftp://b", general),
        ("u:geheim@b:0,GOOD", port),
        ("GOOD,u:geheim@", general),
        // A comma in a password has to be encoded.
        ("GOOD,u:ge,heim@b", port),
        ("GOOD,https://u:geheim,@b", port),
        ("u:geheim @GOOD,b c", general),
    ] {
        let (list, words) = (list.replace("GOOD", good), words.replace("GOOD", good));
        for args in [&[][..], &["--delete"], &["--prune", "60"], &["--dry-run"]] {
            let ended = Run::new(good, &list).args(args).end();
            ended.failed(2, &["--pgw-addr (PGW_ADDR): ", &words]);
            assert!(!ended.stderr.contains("geh") && !ended.stderr.contains("heim"), "{ended:?}");
        }
    }
    // TLS options would protect the push to one of the gateways only.
    let files = Files::new();
    let run = Run::new(good, &format!("https://{good},{good}/a"));
    let ended = run.env("PGW_CACERT", files.file("ca.crt")).end();
    ended.failed(2, &["PGW_CACERT", "no TLS to http://"]);
    assert!(server.requests().is_empty());
}

#[test]
fn secret_of_one_gateway_is_masked_in_the_responses_of_all() {
    let exporter = small_exporter();
    // Each of them repeats both passwords.
    let echo = || {
        Fake::meddling("127.0.0.1:1", |request| {
            let body = format!("{PASSWORD} falsches-wort {}", request.head);
            Some(response(403, "", &body))
        })
    };
    let (one, other) = (echo(), echo());
    let list = format!("node:{PASSWORD}@{},node:falsches-wort@{}", one.addr, other.addr);
    for args in [&[][..], &["-vv"]] {
        let ended = Run::new(&exporter.addr, &list).args(args).env("RUST_LOG", "trace").end();
        assert_eq!(ended.status, Some(7), "{ended:?}");
        assert_eq!(ended.stderr.matches(": *** *** POST ").count(), 2, "{ended:?}");
        assert_eq!(ended.stderr.matches("authorization: Basic ***").count(), 2, "{ended:?}");
        // Both encoded credentials begin with the last of these.
        for secret in [PASSWORD, "falsches-wort", "bm9kZTp"] {
            assert!(!ended.stderr.contains(secret), "{ended:?}");
        }
    }
}

#[test]
fn gateways_are_served_one_after_the_other_if_no_thread_can_be_started() {
    if !require(geteuid().is_root(), "to run as another user, be root") {
        return;
    }
    let exporter = Server::node_exporter();
    let gateways = [(); 3].map(|()| Server::pushgateway(&[]));
    let (hanging, refusing) = (Fake::raw(hang), refusing_gateway());
    let mut list = gateways.each_ref().map(|gateway| &*gateway.addr).to_vec();
    list.insert(1, &hanging.addr);
    list.insert(0, &refusing.addr);
    let directory = tempfile::tempdir().unwrap();
    let program = copy_program(directory.path());
    fs::set_permissions(directory.path(), Permissions::from_mode(0o777)).unwrap();
    // The limit does not hold for root.
    let user = 500_000 + std::process::id() % 100_000;
    let output = Command::new("setpriv")
        .args(["--reuid", &user.to_string(), "--clear-groups"])
        .args(["prlimit", "--nproc=1"])
        .arg(&program)
        .env_clear()
        .env("EXPORTER_ADDR", &exporter.addr)
        .env("PGW_ADDR", list.join(","))
        .env("PGW_INSTANCE", "n")
        .env("PGW_PUSH_TIMEOUT", "3")
        .env("FORWARDER_LOCK_FILE", directory.path().join("lock"))
        .complete();
    let ended = Ended::new(output);
    failed_at(&ended, &[(&refusing.addr, 7), (&hanging.addr, 6)]);
    for gateway in &gateways {
        assert!(families(&gateway.group("n").unwrap()).len() > 100);
    }
}

/// Scrape targets for two gateways, as in docs/scaling.md, with these addresses.
fn targets(a: &str, b: &str) -> String {
    let block = docs::block("docs/scaling.md", "static_configs:");
    let lines: String = block[1..].iter().map(|line| format!("    {line}\n")).collect();
    replace(&replace(&lines, "push-a.example:9091", a), "push-b.example:9091", b)
}

/// The query of docs/scaling.md that counts each instance once: on the gateway that got its last push.
fn once(series: &str) -> String {
    let query = docs::command("docs/scaling.md", "max without (gateway) (");
    replace(&query, "node_load1", series)
}

#[test]
fn each_instance_is_counted_once_while_a_gateway_is_stale_or_gone() {
    let (a, b) = (Server::pushgateway(&[]), Server::pushgateway(&[]));
    let (addr_a, addr_b) = (a.addr.clone(), b.addr.clone());
    let both = format!("{addr_a},{addr_b}");
    let prometheus_pair = [(); 2].map(|()| Server::prometheus_of(&targets(&addr_a, &addr_b), None));
    let load = Arc::new(AtomicU32::new(9));
    let shown = Arc::clone(&load);
    let exporter = Fake::answering(move |_| {
        let load = shown.load(Ordering::Relaxed);
        exposition(&format!("node_load1 {load}\n# TYPE work_total counter\nwork_total 5\n"))
    });
    let push = |gateways: &str| {
        let run = |instance| Run::new(&exporter.addr, gateways).instance(instance).end();
        [run("n1"), run("n2")].map(|ended| ended.status.unwrap())
    };
    // Pushes until each Prometheus has a response to the query.
    let push_until = |gateways: &str, status: i32, promql: &str| {
        for prometheus in &prometheus_pair {
            wait_for(promql, || {
                assert_eq!(push(gateways), [status; 2]);
                query_once(&prometheus.addr, promql)
            });
        }
    };
    let counted_once = |load: u32| {
        let once = once("node_load1");
        format!("count({once} == {load}) == 2 and count({once}) == 2")
    };

    // Both gateways have both instances.
    push_until(&both, 0, "count(node_load1) == 4");
    push_until(&both, 0, &counted_once(9));
    push_until(&both, 0, &format!("count({}) == 2", once("rate(work_total[1m])")));
    push_until(&both, 0, "count(job_instance:push_up:bool == 1) == 2");

    // One gateway gets no pushes, and goes on serving old values.
    load.store(1, Ordering::Relaxed);
    push_until(&addr_a, 0, &counted_once(1));
    push_until(&addr_a, 0, "max without (gateway) (node_load1) == 9");
    for prometheus in &prometheus_pair {
        wait_for("the fleet's page", || {
            let page = prometheus.page("/consoles/fleet.html");
            (page.matches("<td>1.00").count() == 2).then_some(())
        });
    }
    load.store(2, Ordering::Relaxed);
    push_until(&addr_b, 0, &counted_once(2));

    // A Prometheus that federates both adds a label for each.
    let federation = format!(
        "      - targets: [{}]\n        labels: {{ prometheus: x }}\n\
         \x20     - targets: [{}]\n        labels: {{ prometheus: y }}\n\
         \x20   metrics_path: /federate\n    params: {{ 'match[]': ['{{job=\"node\"}}'] }}\n",
        prometheus_pair[0].addr, prometheus_pair[1].addr
    );
    let third = Server::prometheus_of(&federation, None);
    third.query("count(node_load1) == 8");
    third.query(&counted_once(2).replace("gateway)", "gateway, prometheus)"));

    // One gateway is gone, and its alert is the only one.
    drop(a);
    load.store(3, Ordering::Relaxed);
    push_until(&both, 6, &counted_once(3));
    let down = "ALERTS{alertname=\"PushgatewayDown\",alertstate=\"firing\"";
    push_until(&both, 6, &format!("{down},gateway=\"a\"}}"));
    push_until(&both, 6, "count(ALERTS) == 1");
    push_until(&both, 6, "count(job_instance:push_up:bool == 1) == 2");
}

#[test]
fn without_a_gateway_label_the_series_of_two_gateways_are_mixed() {
    let (a, b) = (Server::pushgateway(&[]), Server::pushgateway(&[]));
    let work = AtomicU32::new(1000);
    let exporter = Fake::answering(move |_| {
        let work = work.fetch_add(1, Ordering::Relaxed);
        exposition(&format!("# TYPE work_total counter\nwork_total {work}\n"))
    });
    let push = |gateways: &str| Run::new(&exporter.addr, gateways).end().succeeded();
    let bare = Server::prometheus_of(&format!("      - targets: [{},{}]\n", a.addr, b.addr), None);
    let labelled = Server::prometheus_of(&targets(&a.addr, &b.addr), None);
    push(&format!("{},{}", a.addr, b.addr));
    wait_for("a counter that goes back", || {
        push(&a.addr);
        query_once(&bare.addr, "resets(work_total[10s]) > 2")
    });
    bare.query("count(work_total) == 1");
    labelled.query("count(work_total) == 2");
    labelled.query("max(resets(work_total[1m])) == 0");
}
