//! Several gateways: one scrape, the same to each, and what one of them does is no other's trouble.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::process::geteuid;

use crate::compression::ENCODINGS;
use crate::fake::{Fake, exposition, hang, response};
use crate::host::{require, unused_address, wait_for};
use crate::run::{Ended, Run, copy_program};
use crate::servers::{Server, count_pushes, families, query_once};
use crate::tls_and_credentials::{Files, PASSWORD};

/// What a small exporter says.
fn small() -> Fake {
    Fake::answering(|_| exposition("a 1\n"))
}

/// A gateway that refuses all.
fn refusing() -> Fake {
    Fake::answering(|_| response(400, "", "not here"))
}

/// Asserts that a run failed with this status, and with one line for each of these addresses.
#[track_caller]
fn failed_at(ended: &Ended, status: i32, addresses: &[&str]) {
    assert_eq!(ended.status, Some(status), "{ended:?}");
    let lines: Vec<_> = ended.stderr.lines().collect();
    assert_eq!(lines.len(), addresses.len(), "{ended:?}");
    for (line, address) in lines.iter().zip(addresses) {
        let start = format!("pgw-forwarder: error: gateway http://{address}/metrics");
        assert!(line.starts_with(&start), "{address}: {ended:?}");
    }
}

#[test]
fn one_scrape_is_pushed_to_all_of_them_as_the_same_bytes() {
    let exporter = Server::node_exporter();
    let gateways = [(); 3].map(|()| Server::pushgateway(&[]));
    for encoding in ENCODINGS {
        let said = Fake::in_front_of(&exporter.addr);
        let heard = gateways.each_ref().map(|gateway| Fake::in_front_of(&gateway.addr));
        let list = heard.each_ref().map(|fake| fake.addr.as_str()).join(",");
        let run = Run::new(&said.addr, &list).instance(encoding);
        run.env("PGW_ENCODING", encoding).end().succeeded();

        // The probe and the scrape.
        assert_eq!(said.requests().len(), 2);
        let pushes = heard.map(|fake| fake.requests());
        assert!(pushes.iter().all(|pushes| pushes.len() == 1));
        assert!(pushes.iter().all(|all| all[0].body == pushes[0][0].body));
        for gateway in &gateways {
            let families = families(&gateway.group(encoding).unwrap());
            assert!(families.len() > 100, "{encoding}: {families:?}");
        }
    }
}

#[test]
fn what_one_does_keeps_no_other_from_being_served_and_the_worst_is_the_status() {
    let exporter = Server::node_exporter();
    let (one, other) = (Server::pushgateway(&[]), Server::pushgateway(&[]));
    let (dead, hanging, refusing) = (unused_address(), Fake::raw(hang), refusing());
    let (hanging, refusing) = (&*hanging.addr, &*refusing.addr);
    let dead = &*dead;
    for (bad, status) in [
        (&[dead][..], 6),
        (&[hanging], 6),
        (&[refusing], 7),
        (&[dead, hanging], 6),
        (&[refusing, hanging, dead], 7),
    ] {
        let good = [&*one.addr, &*other.addr];
        // Last, first, among the good ones, and around them.
        let lists = [
            [&good, bad].concat(),
            [bad, &good].concat(),
            [&good[..1], bad, &good[1..]].concat(),
            [&bad[..1], &good, &bad[1..]].concat(),
        ];
        let runs = ["last", "first", "among", "around"].iter().zip(lists);
        let runs = runs.map(|(place, list)| {
            let instance = format!("{bad:?} {place}");
            let run = Run::new(&exporter.addr, &list.join(",")).instance(&instance);
            (run.env("PGW_PUSH_TIMEOUT", "3").start(), instance)
        });
        for (run, instance) in runs.collect::<Vec<_>>() {
            let ended = Ended::new(run.wait_with_output().unwrap(), Duration::ZERO);
            failed_at(&ended, status, bad);
            for gateway in [&one, &other] {
                let group = gateway.group(&instance).expect(&instance);
                assert!(families(&group).len() > 100, "{instance}");
            }
        }
    }
    // Where there is none but bad ones, each has its line all the same.
    let bad = [dead, refusing, hanging];
    let run = Run::new(&exporter.addr, &bad.join(","));
    let ended = run.env("PGW_PUSH_TIMEOUT", "1").end();
    failed_at(&ended, 7, &bad);
    let quiet = Run::new(&exporter.addr, &format!("{dead},{refusing}")).arg("-q").end();
    assert_eq!((quiet.status, &*quiet.stderr), (Some(7), ""));
}

#[test]
fn those_that_answer_are_served_at_once_while_another_is_waited_for() {
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
        // It has its own limit for itself.
        gateways[stopped].pause(false);
        Ended::new(run.wait_with_output().unwrap(), Duration::ZERO).succeeded();
        assert!(gateways[stopped].group(instance).is_some());
    }
}

#[test]
fn three_that_hang_take_no_longer_than_one() {
    let (exporter, gateway) = (Server::node_exporter(), Server::pushgateway(&[]));
    let hanging = [(); 3].map(|()| Fake::raw(hang));
    let [a, b, c] = hanging.each_ref().map(|fake| &*fake.addr);
    let list = [a, b, &gateway.addr, c].join(",");
    let run = Run::new(&exporter.addr, &list).instance("n");
    let ended = run
        .env("EXPORTER_PROBE_TIMEOUT", "2")
        .env("EXPORTER_SCRAPE_TIMEOUT", "2")
        .env("PGW_PUSH_TIMEOUT", "3")
        .end();
    failed_at(&ended, 6, &[a, b, c]);
    // All limits together.
    assert!(ended.took < Duration::from_secs(2 + 2 + 3), "{ended:?}");
    assert!(gateway.group("n").is_some());
}

#[test]
fn nothing_goes_to_any_of_them_without_a_whole_scrape() {
    let gateways = [(); 2].map(|()| Fake::answering(|_| response(200, "", "")));
    let list = gateways.each_ref().map(|fake| &*fake.addr).join(",");
    Run::new(&unused_address(), &list).end().failed(4, &["is down"]);
    let empty = Fake::answering(|_| exposition(""));
    Run::new(&empty.addr, &list).end().failed(5, &["empty"]);
    let dry = Run::new(&small().addr, &list).arg("--dry-run").end();
    dry.succeeded();
    assert_eq!(dry.stdout, b"a 1\n");
    for gateway in &gateways {
        assert!(gateway.requests().is_empty());
    }
}

#[test]
fn a_group_is_deleted_from_all_of_them() {
    let exporter = Server::node_exporter();
    let (one, other, refusing) = (Server::pushgateway(&[]), Server::pushgateway(&[]), refusing());
    let list = format!("{},{},{}", one.addr, refusing.addr, other.addr);
    let run = |instance: &str| Run::new(&exporter.addr, &list).instance(instance);
    for instance in ["going", "staying"] {
        failed_at(&run(instance).end(), 7, &[&refusing.addr]);
    }
    let ended = run("going").arg("--delete").end();
    failed_at(&ended, 7, &[&refusing.addr]);
    for gateway in [one, other] {
        assert!(gateway.group("going").is_none());
        assert!(gateway.group("staying").is_some());
    }
}

#[test]
fn old_groups_go_from_all_of_them_but_in_a_dry_run() {
    let exporter = small();
    let gateways = [(); 3].map(|()| Server::pushgateway(&[]));
    let list = gateways.each_ref().map(|gateway| &*gateway.addr).join(",");
    for (instance, gateway) in ["a", "b", "c"].into_iter().zip(&gateways) {
        for instance in [instance, "in all"] {
            Run::new(&exporter.addr, &gateway.addr).instance(instance).end().succeeded();
        }
    }
    let prune = |gateways: &str| Run::new("127.0.0.1:1", gateways).args(&["--prune", "1"]);
    let listed = wait_for("the groups to grow old", || {
        let ended = prune(&list).arg("--dry-run").end();
        ended.succeeded();
        let listed = String::from_utf8(ended.stdout).unwrap();
        (listed.lines().count() == 6).then_some(listed)
    });
    for (instance, times) in [("a", 1), ("b", 1), ("c", 1), ("in all", 3)] {
        let group = format!("{{instance=\"{instance}\",job=\"node\"}}, last pushed ");
        assert_eq!(listed.matches(&group).count(), times, "{listed}");
    }
    assert!(gateways.iter().all(|gateway| gateway.groups().len() == 2));

    // One of them is away for now.
    gateways[0].pause(true);
    let ended = prune(&list).env("PGW_PUSH_TIMEOUT", "3").end();
    gateways[0].pause(false);
    failed_at(&ended, 6, &[&gateways[0].addr]);
    assert_eq!(gateways.each_ref().map(|gateway| gateway.groups().len()), [2, 0, 0]);
    prune(&list).end().succeeded();
    assert!(gateways[0].groups().is_empty());
}

#[test]
fn a_run_excludes_those_that_would_push_the_group_to_one_of_the_same() {
    let gateways = [(); 3].map(|()| Server::pushgateway(&[]));
    let [a, b, c] = gateways.each_ref().map(|gateway| &*gateway.addr);
    let (stuck, alive) = (Fake::after_request(hang), small());
    let holder = |gateways: &[&str]| -> Child {
        let scrapes = stuck.requests().len();
        let run = Run::new(&stuck.addr, &gateways.join(",")).instance("n").start();
        wait_for("the scrape", || (stuck.requests().len() == scrapes + 2).then_some(()));
        run
    };
    let run = |gateways: &[&str]| Run::new(&alive.addr, &gateways.join(",")).instance("n");
    let end = |mut child: Child| {
        child.kill().unwrap();
        child.wait().unwrap();
    };

    let first = holder(&[a, b]);
    let pid = format!("PID {}", first.id());
    for gateways in [&[a][..], &[b], &[a, b], &[b, a], &[b, c], &[c, a], &[c, b, a]] {
        run(gateways).end().failed(3, &["another run", &pid]);
    }
    run(&[b, c]).arg("--delete").end().failed(3, &["another run", &pid]);
    assert_eq!(alive.requests().len(), 0, "it has contacted the exporter");
    // What it was not to do has kept no lock.
    run(&[c]).end().succeeded();
    run(&[a, b]).instance("another").end().succeeded();
    end(first);
    run(&[a, b, c]).end().succeeded();
    assert_eq!([a, b, c].map(count_pushes), [2, 2, 2]);

    let alone = holder(&[b]);
    run(&[a, b]).end().failed(3, &["another run", &format!("PID {}", alone.id())]);
    run(&[a, c]).end().succeeded();
    end(alone);

    let silent = Fake::raw(hang);
    let prune =
        |gateways: &[&str]| Run::new("127.0.0.1:1", &gateways.join(",")).args(&["--prune", "60"]);
    let pruning = prune(&[a, &silent.addr]).start();
    wait_for("the look", || silent.requests().pop());
    let pid = format!("PID {}", pruning.id());
    prune(&[b, a]).end().failed(3, &["another run", &pid]);
    prune(&[b, c]).end().succeeded();
    end(pruning);
}

#[test]
fn of_two_runs_that_name_the_same_gateways_in_another_order_one_pushes() {
    let exporter = small();
    let [a, b] = [unused_address(), unused_address()];
    let lists = [format!("{a},{b}"), format!("{b},{a}")];
    for _ in 0..100 {
        let runs = lists.each_ref().map(|list| Run::new(&exporter.addr, list).start());
        let statuses = runs.map(|run| run.wait_with_output().unwrap().status.code());
        assert!(statuses.contains(&Some(6)), "{statuses:?}");
    }
}

#[test]
fn credentials_in_an_address_go_to_that_one_alone_and_those_of_options_to_all() {
    let exporter = small();
    let files = Files::new();
    let config = files.file("plain-login.yml");
    let guarded = [(); 2].map(|()| Server::secured_pushgateway("127.0.0.1", &config));
    let open = Server::pushgateway(&[]);
    let heard = [&guarded[0], &guarded[1], &open].map(|gateway| Fake::in_front_of(&gateway.addr));
    let [one, other, open] = heard.each_ref().map(|fake| &*fake.addr);
    let with = |addr: &str| format!("node:{PASSWORD}@{addr}");
    let run = |list: &[&str]| Run::new(&exporter.addr, &list.join(","));
    // Whether the last push to each came with credentials.
    let told = || {
        heard.each_ref().map(|fake| {
            let push = fake.requests().pop().unwrap();
            push.header("authorization").is_some()
        })
    };

    let ended = run(&[&with(one), other, open]).end();
    failed_at(&ended, 7, &[other]);
    assert_eq!(told(), [true, false, false]);
    run(&[open, &with(other), &with(one)]).end().succeeded();
    assert_eq!(told(), [true, true, false]);
    let file = files.file("password");
    let by_options = |run: Run| run.env("PGW_USER", "node").env("PGW_PASSWORD_FILE", &file);
    by_options(run(&[one, open, other])).end().succeeded();
    assert_eq!(told(), [true, true, true]);
    run(&[one, open, other]).env("PGW_TOKEN", "a-token").end();
    assert_eq!(told(), [true, true, true]);

    // Which of the two is meant, is not guessed.
    let pushed = heard.each_ref().map(|fake| fake.requests().len());
    let both = by_options(run(&[open, &with(one)])).end();
    both.failed(2, &["--pgw-user", "several of"]);
    assert_eq!(heard.map(|fake| fake.requests().len()), pushed);
}

#[test]
fn each_is_reached_by_its_own_way() {
    let exporter = small();
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

    // One that is not there is in the way of one of them alone.
    let ended = run("127.0.0.1:1").instance("m").end();
    failed_at(&ended, 6, &[&one.addr]);
    assert!(ended.stderr.contains("through the proxy http://127.0.0.1:1/"), "{ended:?}");
    assert!(one.group("m").is_none() && other.group("m").is_some());
}

#[test]
fn a_list_that_is_no_good_is_a_usage_error_that_shows_no_secret() {
    let [exporter, good] = [(); 2].map(|()| Fake::answering(|_| exposition("a 1\n")));
    let good = &*good.addr;
    for (list, words) in [
        ("GOOD,GOOD", "GOOD is given twice"),
        ("GOOD,b,http://GOOD/", "GOOD is given twice"),
        ("u:geheim@GOOD,GOOD", "GOOD is given twice"),
        ("host:80,GOOD,HOST", "http://host is given twice"),
        ("http://host/,host:80", "http://host is given twice"),
        ("https://host:443,https://host", "https://host is given twice"),
        ("host/a,host/a/", "http://host/a is given twice"),
        ("[::1]:1,[0:0::1]:1", "http://[::1]:1 is given twice"),
        ("GOOD,", ""),
        (",GOOD", ""),
        ("GOOD,,b", ""),
        ("GOOD, b", "\" b\""),
        ("GOOD;b", "GOOD;b"),
        ("GOOD,ftp://b", "ftp://b"),
        ("u:geheim@GOOD,ftp://b", "%2C"),
        ("u:geheim@b:0,GOOD", "%2C"),
        ("GOOD,u:geheim@", "%2C"),
        ("GOOD,u:ge,heim@b", "%2C"),
        ("GOOD,https://u:geheim,@b", "%2C"),
        ("u:geheim @GOOD,b c", "%2C"),
    ] {
        let (list, words) = (list.replace("GOOD", good), words.replace("GOOD", good));
        for args in [&[][..], &["--delete"], &["--prune", "60"], &["--dry-run"]] {
            let ended = Run::new(&exporter.addr, &list).args(args).end();
            ended.failed(2, &["--pgw-addr (PGW_ADDR)", &words]);
            assert!(!ended.stderr.contains("geh"), "{ended:?}");
            assert!(!ended.stderr.contains("heim"), "{ended:?}");
        }
    }
    assert!(exporter.requests().is_empty());
    // What is for TLS would protect one of them only.
    let files = Files::new();
    let run = Run::new(&exporter.addr, &format!("https://{good},{good}/a"));
    let ended = run.env("PGW_CACERT", files.file("ca.crt")).end();
    ended.failed(2, &["PGW_CACERT", "no TLS to an http://"]);
}

#[test]
fn what_each_of_them_is_told_in_secret_is_shown_for_none() {
    let exporter = small();
    // They repeat what they were sent.
    let parrots = [(); 2]
        .map(|()| Fake::meddling("127.0.0.1:1", |request| Some(response(403, "", &request.head))));
    let [a, b] = parrots.each_ref().map(|fake| &*fake.addr);
    let list = format!("node:{PASSWORD}@{a},node:falsches-wort@{b}");
    for args in [&[][..], &["-vv"]] {
        let run = Run::new(&exporter.addr, &list).args(args);
        let ended = run.env("RUST_LOG", "trace").end();
        assert_eq!(ended.status, Some(7), "{ended:?}");
        assert_eq!(ended.stderr.matches("authorization: Basic ***").count(), 2, "{ended:?}");
        // What both begin with, encoded.
        for secret in [PASSWORD, "falsches-wort", "bm9kZTp"] {
            assert!(!ended.stderr.contains(secret), "{ended:?}");
        }
    }
}

#[test]
fn where_no_thread_is_to_be_had_one_is_served_after_the_other() {
    if !require(geteuid().is_root(), "a user of its own needs root") {
        return;
    }
    let exporter = Server::node_exporter();
    let gateways = [(); 3].map(|()| Server::pushgateway(&[]));
    let (hanging, refusing) = (Fake::raw(hang), refusing());
    let mut list = gateways.each_ref().map(|gateway| &*gateway.addr).to_vec();
    list.insert(1, &hanging.addr);
    list.insert(0, &refusing.addr);
    let place = tempfile::tempdir().unwrap();
    let program = copy_program(place.path());
    fs::set_permissions(place.path(), Permissions::from_mode(0o777)).unwrap();
    // Root may always have one more.
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
        .env("FORWARDER_LOCK_FILE", place.path().join("lock"))
        .output()
        .unwrap();
    let ended = Ended::new(output, Duration::ZERO);
    failed_at(&ended, 7, &[&refusing.addr, &hanging.addr]);
    for gateway in &gateways {
        assert!(families(&gateway.group("n").unwrap()).len() > 100);
    }
}

#[test]
fn with_too_little_memory_for_all_it_says_so() {
    let body = format!("# {}\na 1\n", "x".repeat(1000)).repeat(4000);
    let exporter = Fake::answering(move |_| exposition(&body));
    let gateways = [(); 3].map(|()| Fake::answering(|_| response(200, "", "")));
    let list = gateways.each_ref().map(|fake| &*fake.addr).join(",");
    let mut statuses = Vec::new();
    for kilobytes in (8_000..40_000).step_by(200) {
        let ended = Run::new(&exporter.addr, &list).within(kilobytes).end();
        // With less, the program cannot be loaded, or ends before its first line.
        let is_heard = ended.stderr.starts_with("pgw-forwarder: error: ");
        match ended.status {
            Some(0) => ended.succeeded(),
            Some(status @ 1..=7) if is_heard => ended.failed(status, &["memory"]),
            _ if statuses.is_empty() => continue,
            _ => panic!("{ended:?}"),
        }
        statuses.extend(ended.status);
    }
    assert_eq!((statuses[0], statuses.last()), (1, Some(&0)), "{statuses:?}");
    let pushed = statuses.iter().filter(|&&status| status == 0).count();
    for gateway in gateways {
        assert_eq!(gateway.requests().len(), pushed, "{statuses:?}");
    }
}

/// Targets for two gateways, as the README has them but for the addresses.
fn targets(a: &str, b: &str) -> String {
    format!(
        "      - targets: [{a}]\n        labels: {{ gateway: a }}\n\
         \x20     - targets: [{b}]\n        labels: {{ gateway: b }}\n"
    )
}

/// What tells of each instance once, by the README: as the gateway has it that was pushed to last.
fn once(series: &str) -> String {
    format!(
        "max without (gateway) ({series} and on (job, instance, gateway) \
         topk without (gateway) (1, push_time_seconds))"
    )
}

#[test]
fn of_two_gateways_and_two_prometheis_any_may_go_and_each_instance_is_told_once() {
    let (a, b) = (Server::pushgateway(&[]), Server::pushgateway(&[]));
    let (addr_a, addr_b) = (a.addr.clone(), b.addr.clone());
    let both = format!("{addr_a},{addr_b}");
    let two = [(); 2].map(|()| Server::prometheus_of(&targets(&addr_a, &addr_b), None));
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
    // What each Prometheus says in the end, while the nodes go on pushing.
    let all_say = |gateways: &str, status: i32, promql: &str| {
        for prometheus in &two {
            wait_for(promql, || {
                assert_eq!(push(gateways), [status; 2]);
                query_once(&prometheus.addr, promql)
            });
        }
    };
    let told = |load: u32| {
        let once = once("node_load1");
        format!("count({once} == {load}) == 2 and count({once}) == 2")
    };

    // Told by both gateways, counted once.
    all_say(&both, 0, "count(node_load1) == 4");
    all_say(&both, 0, &told(9));
    all_say(&both, 0, &format!("count({}) == 2", once("rate(work_total[1m])")));
    all_say(&both, 0, "count(job_instance:push_up:bool == 1) == 2");

    // The nodes do not get through to one, which goes on to tell what is old.
    load.store(1, Ordering::Relaxed);
    all_say(&addr_a, 0, &told(1));
    all_say(&addr_a, 0, "max without (gateway) (node_load1) == 9");
    for prometheus in &two {
        wait_for("the page", || {
            let page = prometheus.page("/consoles/fleet.html");
            (page.matches("<td>1.00").count() == 2).then_some(())
        });
    }
    load.store(2, Ordering::Relaxed);
    all_say(&addr_b, 0, &told(2));

    // Where a third asks both, each of them is one more label.
    let federation = format!(
        "      - targets: [{}]\n        labels: {{ prometheus: x }}\n\
         \x20     - targets: [{}]\n        labels: {{ prometheus: y }}\n\
         \x20   metrics_path: /federate\n    params: {{ 'match[]': ['{{job=\"node\"}}'] }}\n",
        two[0].addr, two[1].addr
    );
    let third = Server::prometheus_of(&federation, None);
    third.query("count(node_load1) == 8");
    third.query(&told(2).replace("gateway)", "gateway, prometheus)"));

    // One of the gateways is gone, and with it nothing but itself.
    drop(a);
    load.store(3, Ordering::Relaxed);
    all_say(&both, 6, &told(3));
    let down = "ALERTS{alertname=\"PushgatewayDown\",alertstate=\"firing\"";
    all_say(&both, 6, &format!("{down},gateway=\"a\"}}"));
    all_say(&both, 6, "count(ALERTS) == 1");
    all_say(&both, 6, "count(job_instance:push_up:bool == 1) == 2");
}

#[test]
fn without_a_label_for_each_gateway_their_series_run_together() {
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
