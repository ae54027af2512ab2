//! The page that shows the fleet: `/consoles/fleet.html` of the monitoring host's Prometheus.

use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::fake::{Fake, exposition};
use crate::host::{has_fetched, unused_address, wait_for};
use crate::run::Run;
use crate::servers::Server;

/// A job or instance that would be an element of the page, or the end of a query, if it were not escaped.
const HOSTILE: &str = "<script>alert('\"})</script>";

/// The installed Prometheus and, where it is available, a newer one.
fn every_prometheus(gateway: &Server) -> Vec<Server> {
    let mut servers = vec![Server::prometheus(gateway, None)];
    if has_fetched(&["prometheus-newer"]) {
        servers.push(Server::newer_prometheus(gateway, None));
    }
    servers
}

/// What a reader sees of each element that starts like this, up to the next one.
fn texts_of(page: &str, start: &str) -> Vec<String> {
    let parts = page.split(start).skip(1);
    let strip = |part: &str| {
        let mut text = String::new();
        // The first piece is the rest of the start tag.
        for piece in part.split('<') {
            text += piece.split_once('>').map_or(piece, |(_, text)| text);
        }
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    parts.map(strip).collect()
}

/// The numbers of nodes at the top of the page, with their states.
fn counts(page: &str) -> Vec<String> {
    let (list, _) = page.split_once("</ul>").unwrap_or_default();
    texts_of(list, "<li")
}

/// The cells of each node.
fn rows(page: &str) -> Vec<Vec<String>> {
    let (_, body) = page.split_once("<tbody>").unwrap_or_default();
    body.split("<tr").skip(1).map(|row| texts_of(&row.replace("<th", "<td"), "<td")).collect()
}

/// Waits until the page has these numbers, and these nodes with their states, in this order. `run` is what
/// cron does meanwhile.
fn wait_for_states(prometheus: &Server, counted: &[&str], states: &[[&str; 2]], run: impl Fn()) {
    wait_for(&format!("{states:?}"), || {
        run();
        let page = prometheus.page("/consoles/fleet.html");
        let (counts, rows) = (counts(&page), rows(&page));
        let has_states = rows.len() == states.len()
            && rows.iter().zip(states).all(|(row, expected)| row[..2] == expected[..]);
        if counts == counted && has_states {
            return Some(());
        }
        eprintln!("{counts:?} {rows:?}");
        // Instead of cron's minute.
        thread::sleep(Duration::from_millis(500));
        None
    });
}

/// An exporter whose clock is a minute ahead.
fn exporter_with_clock_ahead() -> Fake {
    Fake::answering(|_| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        exposition(&format!("# TYPE node_time_seconds gauge\nnode_time_seconds {}\n", now + 60))
    })
}

#[test]
fn fleet_page_shows_each_node_once_and_those_with_alarms_first() {
    let (gateway, exporter) = (Server::pushgateway(&[]), Server::node_exporter());
    let ahead = exporter_with_clock_ahead();
    let push = |exporter: &str, instance: &str| {
        Run::new(exporter, &gateway.addr).instance(instance).end().succeeded();
    };
    let report = |exporter: &str, instance: &str, status: i32| {
        let run = Run::new(exporter, &gateway.addr).instance(instance).arg("--report-failures");
        run.env("EXPORTER_METRIC", "missing").end().failed(status, &[]);
    };
    let run_all_but_one = || {
        push(&exporter.addr, "a-up.example");
        // It has two groups, but is one node.
        for zone in ["zone=eu", "zone=us"] {
            let run = Run::new(&ahead.addr, &gateway.addr).env("PGW_LABELS", zone);
            run.instance("b-clock.example").end().succeeded();
        }
        // Its last push is not old yet, but its report is newer.
        push(&exporter.addr, "c-unusable.example");
        report(&exporter.addr, "c-unusable.example", 5);
        report(&unused_address(), "c-unknown.example", 4);
    };

    // The order of their names is not the one of their states.
    push(&exporter.addr, "d-stopped.example");
    let refused = Fake::answering(|_| exposition("a 1\na 1\n"));
    Run::new(&refused.addr, &gateway.addr).instance("d-refused.example").end().failed(7, &[]);
    push(&exporter.addr, "c-down.example");

    let refused = ["d-refused.example node", "stopped"];
    let stopped = ["d-stopped.example node", "stopped"];
    let down = ["c-down.example node", "exporter down no response (4)"];
    let unknown = ["c-unknown.example node", "exporter down no response (4)"];
    let unusable = ["c-unusable.example node", "exporter down response unusable (5)"];
    let clock = ["b-clock.example node", "clock off"];
    let [up, up_again] = [["a-up.example node", "up"], ["c-down.example node", "up"]];
    let prometheus = every_prometheus(&gateway);
    for prometheus in &prometheus {
        let counts = ["2 stopped", "3 exporter down", "1 clock off", "1 up"];
        let states = [refused, stopped, down, unknown, unusable, clock, up];
        wait_for_states(prometheus, &counts, &states, || {
            run_all_but_one();
            report(&unused_address(), "c-down.example", 4);
        });
        let rows = rows(&prometheus.page("/consoles/fleet.html"));
        for never_stored in [&rows[0], &rows[3]] {
            assert_eq!(never_stored[2..], ["never", "", "", "", ""]);
        }
    }

    // An exporter is back.
    for prometheus in &prometheus {
        let counts = ["2 stopped", "2 exporter down", "1 clock off", "2 up"];
        let states = [refused, stopped, unknown, unusable, clock, up, up_again];
        wait_for_states(prometheus, &counts, &states, || {
            run_all_but_one();
            push(&exporter.addr, "c-down.example");
        });
    }
}

#[test]
fn fleet_page_shows_load_memory_and_fullest_disk_of_each_node() {
    let gateway = Server::pushgateway(&[]);
    let push = |job: &str, instance: &str, metrics: String| {
        let exporter = Fake::answering(move |_| exposition(&metrics));
        let run = Run::new(&exporter.addr, &gateway.addr).env("PGW_JOB", job);
        run.instance(instance).end().succeeded();
    };
    for (job, factor) in [("node", 1), ("other", 2)] {
        push(
            job,
            "a.example",
            format!(
                "node_load1 {factor}.25\n\
                 node_cpu_seconds_total{{cpu=\"0\",mode=\"idle\"}} 1\n\
                 node_cpu_seconds_total{{cpu=\"0\",mode=\"user\"}} 1\n\
                 node_cpu_seconds_total{{cpu=\"1\",mode=\"idle\"}} 1\n\
                 node_cpu_seconds_total{{cpu=\"1\",mode=\"user\"}} 1\n\
                 node_memory_MemTotal_bytes 100\n\
                 node_memory_MemAvailable_bytes {factor}0\n\
                 node_filesystem_size_bytes{{device=\"a\",fstype=\"ext4\",mountpoint=\"/\"}} 100\n\
                 node_filesystem_avail_bytes{{device=\"a\",fstype=\"ext4\",mountpoint=\"/\"}} 50\n\
                 node_filesystem_size_bytes{{device=\"b\",fstype=\"ext4\",mountpoint=\"/srv\"}} 100\n\
                 node_filesystem_avail_bytes{{device=\"b\",fstype=\"ext4\",mountpoint=\"/srv\"}} 2{factor}\n\
                 node_filesystem_size_bytes{{device=\"c\",fstype=\"tmpfs\",mountpoint=\"/run\"}} 100\n\
                 node_filesystem_avail_bytes{{device=\"c\",fstype=\"tmpfs\",mountpoint=\"/run\"}} 1\n"
            ),
        );
    }
    push("node", "without.example", "a 1\n".into());
    for prometheus in every_prometheus(&gateway) {
        let page = wait_for("three nodes", || {
            let page = prometheus.page("/consoles/fleet.html");
            (rows(&page).len() == 3).then_some(page)
        });
        assert_eq!(counts(&page), ["0 stopped", "0 exporter down", "0 clock off", "3 up"]);
        let found = rows(&page);
        let names: Vec<_> = found.iter().map(|row| row[0].as_str()).collect();
        assert_eq!(names, ["a.example node", "a.example other", "without.example node"]);
        assert_eq!(found[0][3..], ["1.25", "2", "90%", "79% /srv"]);
        assert_eq!(found[1][3..], ["2.25", "2", "80%", "78% /srv"]);
        assert_eq!(found[2][3..], ["", "", "", ""]);
        for row in found {
            assert!(row[2].ends_with("s ago"), "{row:?}");
        }
    }
}

#[test]
fn fleet_page_escapes_what_nodes_call_themselves() {
    let gateway = Server::pushgateway(&[]);
    let disk = "{fstype=\"ext4\",mountpoint=\"</td><b>\"}";
    let metrics =
        format!("node_filesystem_size_bytes{disk} 9\nnode_filesystem_avail_bytes{disk} 9\n");
    let exporter = Fake::answering(move |_| exposition(&metrics));
    let run = Run::new(&exporter.addr, &gateway.addr).instance(HOSTILE).env("PGW_JOB", HOSTILE);
    run.end().succeeded();
    let run =
        Run::new(&unused_address(), &gateway.addr).instance("reporting").env("PGW_JOB", HOSTILE);
    run.arg("--report-failures").end().failed(4, &[]);
    for prometheus in every_prometheus(&gateway) {
        let page = wait_for("two nodes", || {
            let page = prometheus.page("/consoles/fleet.html");
            (rows(&page).len() == 2).then_some(page)
        });
        let escaped = "&lt;script&gt;alert(&#39;&#34;})&lt;/script&gt;";
        assert_eq!(page.matches(escaped).count(), 3, "{page}");
        assert!(page.contains("&lt;/td&gt;&lt;b&gt;"), "{page}");
        assert!(!page.contains("<script"), "{page}");
    }
}

#[test]
fn fleet_page_without_nodes_says_so() {
    let gateway = Server::pushgateway(&[]);
    let prometheus = Server::prometheus(&gateway, None);
    prometheus.query("up{job=\"pushgateway\"} == 1");
    let page = prometheus.page("/consoles/fleet.html");
    assert!(page.contains("Prometheus knows of no node."), "{page}");
    assert!(!page.contains("<p class=\"alarm\">"), "{page}");
}
