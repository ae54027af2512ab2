//! The real programs as servers, each on its own port, and queries to them.

use std::collections::BTreeMap;
use std::fs;
use std::fs::File;
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::host::{Complete, MAX_WAIT, fetched_program, free_port, kill, program, wait_for};

/// The configuration of the monitoring host.
const DEPLOYED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/prometheus");

/// The names of the installed Pushgateway.
const PUSHGATEWAY: [&str; 2] = ["prometheus-pushgateway", "pushgateway"];

/// Seconds after which a push is old to the Prometheus of a test.
pub const OLD: u32 = 10;

/// Reads a file of that configuration.
fn deployed(file: &str) -> String {
    fs::read_to_string(format!("{DEPLOYED}/{file}")).unwrap()
}

/// Replaces `from`, which the text has to contain.
pub fn replace(text: &str, from: &str, to: &str) -> String {
    assert!(text.contains(from), "{from:?} is not in {text}");
    text.replace(from, to)
}

/// A client without a proxy, and with a time limit.
pub fn agent() -> ureq::Agent {
    ureq::Agent::config_builder().proxy(None).timeout_global(Some(MAX_WAIT)).build().into()
}

/// The body of the response, if its status is 200.
pub fn get(url: &str) -> Option<String> {
    let body = agent().get(url).call().ok()?.into_body().into_with_config();
    body.limit(u64::MAX).read_to_string().ok()
}

/// Waits until the Prometheus at `addr` has a result for a query, and returns its first series.
pub fn query(addr: &str, promql: &str) -> Value {
    wait_for(promql, || query_once(addr, promql))
}

/// The first series of the result of a query to the Prometheus at `addr`, if it has one now.
pub fn query_once(addr: &str, promql: &str) -> Option<Value> {
    query_all(addr, promql)?.into_iter().next()
}

/// All series of the result. `None`: no usable response.
pub fn query_all(addr: &str, promql: &str) -> Option<Vec<Value>> {
    let query = percent_encoding::utf8_percent_encode(promql, percent_encoding::NON_ALPHANUMERIC);
    let page = get(&format!("http://{addr}/api/v1/query?query={query}"))?;
    let answer: Value = serde_json::from_str(&page).unwrap();
    answer["data"]["result"].as_array().cloned()
}

/// The result of a query: the labels of each series, and its value.
pub fn values(server: &Server, promql: &str) -> BTreeMap<String, f64> {
    let result = query_all(&server.addr, promql).unwrap_or_else(|| panic!("refused: {promql}"));
    let series = result.into_iter().map(|series| {
        let value = series["value"][1].as_str().unwrap();
        (series["metric"].to_string(), value.parse().unwrap())
    });
    series.collect()
}

/// Asserts that a promtool succeeds with each of these lines of arguments.
pub fn check_by_promtool(promtool: &Path, lines: &[&str]) {
    for line in lines {
        let mut command = Command::new(promtool);
        command.args(line.split(' ')).current_dir(env!("CARGO_MANIFEST_DIR"));
        let output = command.complete();
        assert!(output.status.success(), "{line}: {output:?}");
    }
}

/// The number of pushes to the Pushgateway at `addr`.
pub fn count_pushes(addr: &str) -> u64 {
    let name = "pushgateway_http_push_size_bytes_count{method=\"post\"} ";
    let page = get(&format!("http://{addr}/metrics")).unwrap();
    let line = page.lines().find_map(|line| line.strip_prefix(name));
    line.map_or(0, |count| count.parse().unwrap())
}

/// Writes the configuration of a Prometheus into its directory, and returns the arguments for both.
fn prometheus_args(config: &str, addr: &str, directory: &Path) -> Vec<String> {
    let file = directory.join("prometheus.yml");
    fs::write(&file, config).unwrap();
    vec![
        format!("--config.file={}", file.display()),
        format!("--storage.tsdb.path={}", directory.join("data").display()),
        format!("--web.listen-address={addr}"),
    ]
}

/// A real program that serves HTTP on its own port until this is dropped.
pub struct Server {
    pub addr: String,
    command: Command,
    process: Child,
    directory: TempDir,
}

impl Server {
    /// Starts the first of the programs `names` that is installed. `args` makes its arguments from its
    /// address and its directory. Waits until it answers at the path `ready` with 200 or, if that is empty,
    /// until it accepts connections.
    pub fn start(
        names: &[&str],
        host: &str,
        ready: &str,
        args: impl Fn(&str, &Path) -> Vec<String>,
    ) -> Server {
        let program = &program(names);
        for _ in 0..5 {
            let directory = tempfile::tempdir().unwrap();
            let addr = format!("{host}:{}", free_port());
            let log = File::create(directory.path().join("log")).unwrap();
            let mut command = Command::new(program);
            command.args(args(&addr, directory.path()));
            command.stdout(log.try_clone().unwrap()).stderr(log);
            let process = command.spawn().unwrap();
            let mut server = Server { addr, command, process, directory };
            let url = format!("http://{}{ready}", server.addr);
            let is_up = wait_for(&url, || match server.process.try_wait().unwrap() {
                Some(_) => Some(false),
                None if ready.is_empty() => TcpStream::connect(&server.addr).ok().map(|_| true),
                None => get(&url).map(|_| true),
            });
            if is_up {
                return server;
            }
            // Another program may have taken the port meanwhile.
            eprintln!("{names:?}: {}", server.log());
        }
        panic!("{names:?} does not start");
    }

    pub fn node_exporter() -> Server {
        Server::node_exporter_on("127.0.0.1")
    }

    pub fn node_exporter_on(host: &str) -> Server {
        Server::exporter(host, "/", &[])
    }

    /// A node_exporter with this `--web.config.file`.
    pub fn secured_node_exporter(web_config: &Path) -> Server {
        let config = format!("--web.config.file={}", web_config.display());
        Server::exporter("127.0.0.1", "", &[&config])
    }

    /// A node_exporter with only the metrics that the files in this directory contain.
    pub fn textfile_exporter(directory: &Path) -> Server {
        let args = [
            "--collector.disable-defaults",
            "--collector.textfile",
            &format!("--collector.textfile.directory={}", directory.display()),
        ];
        Server::exporter("127.0.0.1", "/", &args)
    }

    fn exporter(host: &str, ready: &str, extra: &[&str]) -> Server {
        let names = ["prometheus-node-exporter", "node_exporter"];
        Server::start(&names, host, ready, |addr, _| {
            let mut args = vec![
                format!("--web.listen-address={addr}"),
                "--web.disable-exporter-metrics".into(),
            ];
            args.extend(extra.iter().map(|arg| (*arg).to_owned()));
            args
        })
    }

    pub fn pushgateway(extra: &[&str]) -> Server {
        Server::pushgateway_on("127.0.0.1", extra)
    }

    pub fn pushgateway_on(host: &str, extra: &[&str]) -> Server {
        let prefix = extra.iter().find_map(|arg| arg.strip_prefix("--web.route-prefix="));
        let ready = format!("{}/-/ready", prefix.unwrap_or_default());
        Server::gateway(&PUSHGATEWAY, host, &ready, extra)
    }

    /// A Pushgateway that is newer than the installed one.
    pub fn newer_pushgateway(extra: &[&str]) -> Server {
        let program = fetched_program("pushgateway-newer");
        Server::gateway(&[program.to_str().unwrap()], "127.0.0.1", "/-/ready", extra)
    }

    /// A Pushgateway with this `--web.config.file`.
    pub fn secured_pushgateway(host: &str, web_config: &Path) -> Server {
        let config = format!("--web.config.file={}", web_config.display());
        Server::gateway(&PUSHGATEWAY, host, "", &[&config])
    }

    fn gateway(names: &[&str], host: &str, ready: &str, extra: &[&str]) -> Server {
        Server::start(names, host, ready, |addr, _| {
            let mut args =
                vec![format!("--web.listen-address={addr}"), "--persistence.file=".into()];
            args.extend(extra.iter().map(|arg| (*arg).to_owned()));
            args
        })
    }

    /// A Prometheus with the configuration of deploy/prometheus, but faster: the rules wait seconds
    /// instead of minutes, and a push is old after [`OLD`] seconds.
    pub fn prometheus(gateway: &Server, alertmanager: Option<&Server>) -> Server {
        let targets = format!("      - targets: [{}]\n", gateway.addr);
        Server::prometheus_of(&targets, alertmanager)
    }

    /// The same with these lines instead of the one that names the gateway.
    pub fn prometheus_of(targets: &str, alertmanager: Option<&Server>) -> Server {
        Server::deployed_prometheus("prometheus", targets, alertmanager)
    }

    /// A Prometheus that is newer than the installed one, otherwise like [`Server::prometheus`].
    pub fn newer_prometheus(gateway: &Server, alertmanager: Option<&Server>) -> Server {
        let program = fetched_program("prometheus-newer");
        let targets = format!("      - targets: [{}]\n", gateway.addr);
        Server::deployed_prometheus(program.to_str().unwrap(), &targets, alertmanager)
    }

    fn deployed_prometheus(program: &str, targets: &str, alertmanager: Option<&Server>) -> Server {
        Server::start(&[program], "127.0.0.1", "/-/ready", |addr, directory| {
            let mut config = replace(&deployed("prometheus.yml"), "15s", "1s");
            config = replace(&config, "      - targets: [gateway:9091]\n", targets);
            config = replace(&config, "localhost:9090", addr);
            if let Some(alertmanager) = alertmanager {
                let target = &alertmanager.addr;
                config += &format!(
                    "alerting:\n  alertmanagers:\n  - static_configs:\n    - targets: ['{target}']\n"
                );
            }
            let mut rules = deployed("rules/pushed.yaml");
            for comparison in ["< bool", "<"] {
                let (from, to) = (format!("{comparison} 150"), format!("{comparison} {OLD}"));
                rules = replace(&rules, &from, &to);
            }
            for (from, to) in
                [("90s", "1s"), ("150s", "2s"), ("2m", "2s"), ("3m", "3s"), ("5m", "5s")]
            {
                rules = replace(&rules, &format!("for: {from}"), &format!("for: {to}"));
            }
            fs::create_dir(directory.join("rules")).unwrap();
            fs::write(directory.join("rules/pushed.yaml"), rules).unwrap();
            let mut args = prometheus_args(&config, addr, directory);
            args.extend([
                format!("--web.console.templates={DEPLOYED}/consoles"),
                format!("--web.console.libraries={DEPLOYED}/consoles"),
            ]);
            args
        })
    }

    /// A Prometheus that scrapes the exporter at `target` as this instance of the job `node`.
    pub fn scraping_prometheus(target: &str, instance: &str) -> Server {
        Server::start(&["prometheus"], "127.0.0.1", "/-/ready", |addr, directory| {
            let config = format!(
                "scrape_configs: [{{ job_name: node, scrape_interval: 1s, static_configs: \
                     [{{ targets: ['{target}'], labels: {{ instance: '{instance}' }} }}] }}]\n"
            );
            prometheus_args(&config, addr, directory)
        })
    }

    /// A single-node VictoriaMetrics whose query results include the newest samples.
    pub fn victoria_metrics() -> Server {
        let program = fetched_program("victoria-metrics");
        let names = [program.to_str().unwrap()];
        Server::start(&names, "127.0.0.1", "/health", |addr, directory| {
            vec![
                format!("-httpListenAddr={addr}"),
                format!("-storageDataPath={}", directory.join("data").display()),
                "-search.latencyOffset=0s".into(),
            ]
        })
    }

    /// A vmagent that accepts the URLs of a VictoriaMetrics cluster and writes to this single node.
    pub fn vmagent(victoria: &Server) -> Server {
        Server::vmagent_with(victoria, &["-enableMultitenantHandlers"])
    }

    /// A vmagent with these further arguments that writes to this store.
    pub fn vmagent_with(store: &Server, extra: &[&str]) -> Server {
        let program = fetched_program("vmagent");
        let names = [program.to_str().unwrap()];
        Server::start(&names, "127.0.0.1", "/health", |addr, directory| {
            let mut args = vec![
                format!("-httpListenAddr={addr}"),
                format!("-remoteWrite.tmpDataPath={}", directory.join("queue").display()),
                format!("-remoteWrite.url=http://{}/api/v1/write", store.addr),
            ];
            args.extend(extra.iter().map(|arg| (*arg).to_owned()));
            args
        })
    }

    /// A Prometheus with this configuration and these rules that accepts remote write.
    pub fn remote_write_store(program: &Path, config: &str, rules: &str) -> Server {
        let names = [program.to_str().unwrap()];
        Server::start(&names, "127.0.0.1", "/-/ready", |addr, directory| {
            fs::write(directory.join("rules.yaml"), rules).unwrap();
            let mut args = prometheus_args(config, addr, directory);
            args.push("--web.enable-remote-write-receiver".into());
            args
        })
    }

    /// A vmalert that evaluates these rules each second on this VictoriaMetrics.
    pub fn vmalert(victoria: &Server, rules: &str) -> Server {
        let program = fetched_program("vmalert");
        let names = [program.to_str().unwrap()];
        Server::start(&names, "127.0.0.1", "/health", |addr, directory| {
            let file = directory.join("rules.yaml");
            fs::write(&file, rules).unwrap();
            vec![
                format!("-httpListenAddr={addr}"),
                format!("-rule={}", file.display()),
                format!("-datasource.url=http://{}", victoria.addr),
                format!("-remoteWrite.url=http://{}", victoria.addr),
                "-notifier.blackhole".into(),
                "-evaluationInterval=1s".into(),
                "-rule.evalDelay=0s".into(),
            ]
        })
    }

    /// An Alertmanager with the inhibition rules that the file of the alert rules recommends.
    pub fn alertmanager() -> Server {
        let names = ["prometheus-alertmanager", "alertmanager"];
        Server::start(&names, "127.0.0.1", "/-/ready", |addr, directory| {
            let mut config =
                "route: { receiver: nobody }\nreceivers: [{ name: nobody }]\n".to_owned();
            let rules = deployed("rules/pushed.yaml");
            let lines = rules.lines().filter_map(|line| line.strip_prefix("#   "));
            lines.for_each(|line| config += &format!("{line}\n"));
            assert!(config.contains("inhibit_rules"));
            let file = directory.join("alertmanager.yml");
            fs::write(&file, config).unwrap();
            vec![
                format!("--config.file={}", file.display()),
                format!("--storage.path={}", directory.join("data").display()),
                format!("--web.listen-address={addr}"),
                "--cluster.listen-address=".into(),
            ]
        })
    }

    /// An nginx with these lines in its one server. `ADDR` stands for its host and port.
    pub fn nginx(lines: &str) -> Server {
        Server::nginx_on("127.0.0.1", lines)
    }

    /// The same on another address of this host.
    pub fn nginx_on(host: &str, lines: &str) -> Server {
        Server::start(&["nginx"], host, "", |addr, directory| {
            let config = directory.join("nginx.conf");
            let text = format!(
                "daemon off; master_process off; user root; pid {0}/pid; error_log {0}/log; events {{}}\n\
                 http {{ access_log off; client_body_temp_path {0}/body; proxy_temp_path {0}/proxy;\n\
                 fastcgi_temp_path {0}/f; uwsgi_temp_path {0}/u; scgi_temp_path {0}/s;\n\
                 server {{ {1} }} }}\n",
                directory.display(),
                lines.replace("ADDR", addr)
            );
            fs::write(&config, text).unwrap();
            vec!["-c".into(), config.display().to_string()]
        })
    }

    /// A forward proxy with these additional lines in its configuration.
    pub fn tinyproxy(extra: &str) -> Server {
        Server::start(&["tinyproxy"], "127.0.0.1", "", |addr, directory| {
            let config = directory.join("tinyproxy.conf");
            let (host, port) = addr.rsplit_once(':').unwrap();
            fs::write(&config, format!("Listen {host}\nPort {port}\n{extra}\n")).unwrap();
            vec!["-d".into(), "-c".into(), config.display().to_string()]
        })
    }

    /// Stops this program, or lets it continue.
    pub fn pause(&self, pause: bool) {
        let signal = if pause { Signal::STOP } else { Signal::CONT };
        kill_process(Pid::from_child(&self.process), signal).unwrap();
    }

    /// Stops this program, and lets it finish what it does at its end.
    pub fn stop(&mut self) {
        kill_process(Pid::from_child(&self.process), Signal::TERM).unwrap();
        wait_for("the end of the server", || self.process.try_wait().unwrap());
    }

    /// Starts this program again after [`Server::stop`], with the same port and directory.
    pub fn start_again(&mut self) {
        self.process = self.command.spawn().unwrap();
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap()
    }

    /// The body of a response of this server.
    pub fn page(&self, path: &str) -> String {
        let url = format!("http://{}{path}", self.addr);
        get(&url).unwrap_or_else(|| panic!("{url} does not answer"))
    }

    /// The groups on this Pushgateway: their labels, and their families in the format of its API.
    pub fn groups(&self) -> Vec<(BTreeMap<String, String>, Value)> {
        let answer: Value = serde_json::from_str(&self.page("/api/v1/metrics")).unwrap();
        let groups = answer["data"].as_array().unwrap().iter();
        groups
            .map(|group| (serde_json::from_value(group["labels"].clone()).unwrap(), group.clone()))
            .collect()
    }

    /// The group of `instance` on this Pushgateway.
    pub fn group(&self, instance: &str) -> Option<Value> {
        let mut groups = self.groups().into_iter();
        groups.find(|(labels, _)| labels["instance"] == instance).map(|(_, group)| group)
    }

    /// Waits until this Prometheus has a result for a query, and returns its first series.
    pub fn query(&self, promql: &str) -> Value {
        query(&self.addr, promql)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        kill(&mut self.process);
    }
}

/// The names of the families in a group, without those that the gateway itself adds.
pub fn families(group: &Value) -> Vec<String> {
    let own = ["labels", "last_push_successful", "push_time_seconds", "push_failure_time_seconds"];
    let names = group.as_object().unwrap().keys().cloned();
    names.filter(|name| !own.contains(&name.as_str())).collect()
}
