//! The monitoring host in containers, with the real Dockerfile and compose files. If the base images are
//! missing, images with the newest programs on this machine replace them, under the same names. Besides them,
//! these have only their libraries and busybox.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{self, Command, Stdio};

use serde_json::{Value, from_str};
use tempfile::TempDir;

use crate::docs;
use crate::host::{
    Complete, MAX_LONG_WAIT, fetched_program, find_program, free_port, program, require,
    run_command, wait_for,
};
use crate::run::FORWARDER;
use crate::servers::{get, query, replace};

const SOURCE: &str = env!("CARGO_MANIFEST_DIR");
const PLAIN: &str = "-f deploy/compose.yaml";
const SECURED: &str = "-f deploy/compose.yaml -f deploy/compose.secured.yaml";

/// A copy of the deployment files, and its containers. They are removed when this is dropped.
struct Containers {
    directory: TempDir,
    /// The name of the compose project, and the prefix of all other names.
    name: String,
    gateway: u16,
    prometheus: u16,
    /// The images that this has made.
    images: Vec<String>,
}

impl Containers {
    fn new() -> Containers {
        let directory = tempfile::tempdir().unwrap();
        let to = directory.path().join("deploy");
        for line in [
            format!("cp -r {SOURCE}/deploy {}", to.display()),
            format!("cp {SOURCE}/install.sh {}", directory.path().display()),
        ] {
            run_command(&line);
        }
        // What is seen does not depend on how often it is looked at.
        for (file, often, oftener) in [
            ("gateway/Dockerfile", "--interval=10s", "--interval=1s"),
            ("prometheus/prometheus.yml", "_interval: 15s", "_interval: 1s"),
            ("prometheus/prometheus.secured.yml", "_interval: 15s", "_interval: 1s"),
        ] {
            let text = fs::read_to_string(to.join(file)).unwrap();
            assert!(text.contains(often), "{often} is not in {file}");
            fs::write(to.join(file), text.replace(often, oftener)).unwrap();
        }
        let mut containers = Containers {
            directory,
            name: format!("pgwtest{}", process::id()),
            gateway: free_port(),
            prometheus: free_port(),
            images: Vec::new(),
        };
        containers.make_missing_images();
        containers.succeed(&format!("docker network create {}-nodes", containers.name));
        containers
    }

    /// Makes the image of a node, and those that the Dockerfile and the compose file name, unless they
    /// exist.
    fn make_missing_images(&mut self) {
        let programs = self.directory.path().join("programs/bin");
        fs::create_dir_all(&programs).unwrap();
        let newest = |name: &str, installed: &[&str]| {
            let newer = fetched_program(&format!("{name}-newer"));
            if newer.is_file() { newer } else { program(installed) }
        };
        for (from, to) in [
            (newest("prometheus", &["prometheus"]), "prometheus"),
            (newest("pushgateway", &["prometheus-pushgateway", "pushgateway"]), "pushgateway"),
            (program(&["prometheus-node-exporter", "node_exporter"]), "node_exporter"),
            (FORWARDER.into(), "pgw-forwarder"),
            (program(&["busybox"]), "busybox"),
        ] {
            fs::copy(from, programs.join(to)).unwrap();
        }
        let libraries = Command::new("sh")
            .args(["-c", "ldd bin/* | grep -o '/[^ ]*' | grep -v :$ | xargs cp -Lu --parents -t ."])
            .current_dir(self.directory.path().join("programs"))
            .complete();
        assert!(libraries.status.success(), "{libraries:?}");
        let base = format!("{}-base", self.name);
        self.images.push(base.clone());
        let dockerfile = "FROM scratch\nCOPY . /\nRUN [\"/bin/busybox\", \"--install\", \"/bin\"]\n\
                          RUN mkdir /run /tmp\n";
        fs::write(self.directory.path().join("programs/Dockerfile"), dockerfile).unwrap();
        self.succeed(&format!("docker build --quiet --tag {base} programs"));

        let named = |file: &str, line: &str| {
            let text = fs::read_to_string(Path::new(SOURCE).join(file)).unwrap();
            let found = text.lines().find_map(|l| l.trim().strip_prefix(line));
            found.unwrap().to_owned()
        };
        let version = named("deploy/gateway/Dockerfile", "ARG PUSHGATEWAY_VERSION=");
        let gateway = named("deploy/gateway/Dockerfile", "FROM ");
        let gateway = gateway.replace("${PUSHGATEWAY_VERSION}", &version);
        let prometheus = named("deploy/compose.yaml", "image: ");
        let node = format!("{}-node", self.name);
        for (name, lines) in [
            (
                gateway,
                "RUN mkdir /pushgateway && chown 65534:65534 /pushgateway\nUSER 65534\n\
                 WORKDIR /pushgateway\nENTRYPOINT [\"/bin/pushgateway\"]\n",
            ),
            (
                prometheus,
                "RUN mkdir /prometheus && chown 65534:65534 /prometheus\nUSER 65534\n\
                 WORKDIR /prometheus\nENTRYPOINT [\"/bin/prometheus\"]\n",
            ),
            (node, "USER 65534\n"),
        ] {
            let found = command(&format!("docker image inspect {name}")).complete();
            if found.status.success() {
                continue;
            }
            let mut build = command(&format!("docker build --quiet --tag {name} -"))
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            let file = format!("FROM {base}\n{lines}");
            let mut stdin = build.stdin.take().unwrap();
            stdin.write_all(file.as_bytes()).unwrap();
            drop(stdin);
            assert!(build.complete_within(MAX_LONG_WAIT).status.success(), "{name}");
            self.images.insert(0, name);
        }
    }

    /// Runs a command line without quotes in the copy.
    fn run(&self, line: &str) -> process::Output {
        command(line)
            .current_dir(&self.directory)
            .env("GATEWAY_PORT", self.gateway.to_string())
            .env("PROMETHEUS_PORT", self.prometheus.to_string())
            .complete_within(MAX_LONG_WAIT)
    }

    /// Asserts that a command line succeeds, and returns its stdout.
    #[track_caller]
    fn succeed(&self, line: &str) -> String {
        let output = self.run(line);
        assert!(output.status.success(), "{line}: {output:#?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs compose with these files.
    #[track_caller]
    fn compose(&self, files: &str, line: &str) -> String {
        self.succeed(&format!("{} -p {} {files} {line}", compose_command(), self.name))
    }

    /// The state of a service's container.
    fn inspect(&self, service: &str) -> Value {
        // Compose would take a second for the same answer.
        let filter = "--filter label=com.docker.compose";
        let id = self.succeed(&format!(
            "docker ps --quiet {filter}.project={} {filter}.service={service}",
            self.name
        ));
        let found: Value =
            from_str(&self.succeed(&format!("docker inspect {}", id.trim()))).unwrap();
        found[0].clone()
    }

    fn wait_until_healthy(&self) {
        wait_for("the gateway's health", || {
            (self.inspect("gateway")["State"]["Health"]["Status"] == "healthy").then_some(())
        });
    }

    /// Pushes to `addr` from a node in another network, to an https one with CA and password. Returns the
    /// status and stderr.
    fn push(&self, instance: &str, addr: &str) -> (Option<i32>, String) {
        let script = format!(
            "node_exporter --web.listen-address=127.0.0.1:9014 2>/dev/null &\n\
             timeout 60 sh -c 'until wget -q -O /dev/null http://127.0.0.1:9014/; do :; done' 2>/dev/null\n\
             case {addr} in\n\
             https:*) set -- --pgw-cacert /deploy/secured/ca.crt --pgw-user node \
             --pgw-password-file /deploy/secured/node.password ;;\n\
             esac\n\
             pgw-forwarder --pgw-instance {instance} --pgw-addr {addr} --push-timeout 3 \"$@\"\n"
        );
        let file = self.directory.path().join("push.sh");
        fs::write(&file, script).unwrap();
        let mount = format!("{}:/push.sh:ro", file.display());
        let name = &self.name;
        let output = self.run(&format!(
            "docker run --rm --network {name}-nodes --volume {mount} --user 0 \
             --volume {}:/deploy:ro {name}-node sh /push.sh",
            self.directory.path().join("deploy").display()
        ));
        let stderr = String::from_utf8(output.stderr).unwrap();
        (output.status.code(), stderr)
    }

    /// The address of a port that this host publishes, for the nodes.
    fn published(&self, port: u16) -> String {
        let name = &self.name;
        let network = self.succeed(&format!("docker network inspect {name}-nodes"));
        let network: Value = from_str(&network).unwrap();
        let host = network[0]["IPAM"]["Config"][0]["Gateway"].as_str().unwrap();
        format!("{host}:{port}")
    }

    /// The groups on the gateway: their instances and push times.
    fn groups(&self) -> Vec<(String, String)> {
        let url = format!("http://127.0.0.1:{}/api/v1/metrics", self.gateway);
        let page: Value = from_str(&wait_for(&url, || get(&url))).unwrap();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let groups = page["data"].as_array().unwrap().iter();
        groups
            .map(|group| {
                let time = &group["push_time_seconds"]["metrics"][0]["value"];
                (text(&group["labels"]["instance"]), text(time))
            })
            .collect()
    }

    /// Waits until Prometheus has a result for a query, and returns its first series.
    fn query(&self, promql: &str) -> Value {
        query(&format!("127.0.0.1:{}", self.prometheus), promql)
    }

    /// Waits until Prometheus has scraped the secured gateway after this time, and returns when it did.
    fn last_scrape_after(&self, earlier: &str) -> String {
        wait_for("Prometheus to scrape the gateway", || {
            let targets: Value = from_str(&self.prometheus_page("/api/v1/targets")?).unwrap();
            let targets = targets["data"]["activeTargets"].as_array().unwrap().iter();
            let mut gateways =
                targets.filter(|target| target["scrapeUrl"] == "https://gateway:9091/metrics");
            let gateway = gateways.next()?;
            let time = gateway["lastScrape"].as_str().unwrap();
            (gateway["health"] == "up" && time > earlier).then(|| time.to_owned())
        })
    }

    /// The text of a file of deploy/secured.
    fn secured(&self, file: &str) -> String {
        let path = self.directory.path().join("deploy/secured").join(file);
        fs::read_to_string(path).unwrap().trim().to_owned()
    }

    /// The status of the secured gateway's response to this user.
    fn status(&self, user: &str, password: &str) -> String {
        let ca = self.directory.path().join("deploy/secured/ca.crt");
        let url = format!("https://127.0.0.1:{}/-/ready", self.gateway);
        let mut curl =
            command("curl --silent --config - --output /dev/null --write-out %{http_code}")
                .arg("--cacert")
                .args([&ca.display().to_string(), &url])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
        let user = format!("user = \"{user}:{password}\"\n");
        curl.stdin.take().unwrap().write_all(user.as_bytes()).unwrap();
        String::from_utf8(curl.complete().stdout).unwrap()
    }

    /// The body of a response of Prometheus.
    fn prometheus_page(&self, path: &str) -> Option<String> {
        get(&format!("http://127.0.0.1:{}{path}", self.prometheus))
    }
}

impl Drop for Containers {
    fn drop(&mut self) {
        let down = format!(
            "{} -p {} {PLAIN} down --volumes --rmi local --timeout 1",
            compose_command(),
            self.name
        );
        self.run(&down);
        self.run(&format!("docker network rm {}-nodes", self.name));
        for image in &self.images {
            self.run(&format!("docker image rm --force {image}"));
        }
    }
}

fn command(line: &str) -> Command {
    let mut words = line.split(' ').filter(|word| !word.is_empty());
    let mut command = Command::new(words.next().unwrap());
    command.args(words).stdin(Stdio::null());
    command
}

/// Compose is a plugin of docker, or a program as it was formerly.
fn compose_command() -> &'static str {
    match command("docker compose version").complete().status.success() {
        true => "docker compose",
        false => "docker-compose",
    }
}

/// The requirement that this machine does not meet.
fn unmet_requirement() -> Option<String> {
    let has_docker = find_program(&["docker"]).is_some();
    if !has_docker || !command("docker version").complete().status.success() {
        return Some("the containers need a running Docker engine".into());
    }
    if compose_command() == "docker-compose" && find_program(&["docker-compose"]).is_none() {
        return Some("the containers need docker compose".into());
    }
    None
}

#[test]
fn monitoring_host_runs_in_containers() {
    let unmet = unmet_requirement();
    if !require(unmet.is_none(), &unmet.unwrap_or_default()) {
        return;
    }
    let containers = Containers::new();
    containers.compose(PLAIN, "up -d");
    containers.wait_until_healthy();
    containers_have_least_privilege(&containers);
    gateway_takes_other_parameters(&containers);
    node_reaches_the_gateway_only_and_is_shown(&containers);
    groups_survive_a_restart(&containers);
    one_step_secures_the_gateway(&containers);
    users_change_without_a_restart(&containers);
    prune_has_a_user_of_its_own(&containers);
}

fn containers_have_least_privilege(containers: &Containers) {
    let mut published = Vec::new();
    for service in ["gateway", "prometheus"] {
        let container = containers.inspect(service);
        let user = container["Config"]["User"].as_str().unwrap();
        assert!(user.starts_with("65534") || user == "nobody", "{user}");
        let host = &container["HostConfig"];
        assert_eq!(host["ReadonlyRootfs"], true);
        assert_eq!(host["CapDrop"][0], "ALL");
        assert_eq!(host["SecurityOpt"][0], "no-new-privileges:true");
        assert_eq!(host["RestartPolicy"]["Name"], "unless-stopped");
        for (port, bindings) in host["PortBindings"].as_object().unwrap() {
            for binding in bindings.as_array().unwrap() {
                published.push(format!("{}:{port}", binding["HostIp"].as_str().unwrap()));
            }
        }
    }
    assert_eq!(published, [":9091/tcp", "127.0.0.1:9090/tcp"]);
}

fn gateway_takes_other_parameters(containers: &Containers) {
    let container = containers.inspect("gateway");
    let image = container["Image"].as_str().unwrap();
    let help = containers.run(&format!("docker run --rm {image} -h"));
    let help = [help.stdout, help.stderr].concat();
    assert!(String::from_utf8_lossy(&help).contains("--persistence.file"));
}

fn node_reaches_the_gateway_only_and_is_shown(containers: &Containers) {
    let pushed = containers.push("n1.example", &containers.published(containers.gateway));
    assert_eq!(pushed, (Some(0), String::new()));
    let networks = &containers.inspect("prometheus")["NetworkSettings"]["Networks"];
    let own = networks.as_object().unwrap().values().next().unwrap();
    for addr in [
        format!("{}:9090", own["IPAddress"].as_str().unwrap()),
        containers.published(containers.prometheus),
    ] {
        let (status, stderr) = containers.push("n2.example", &addr);
        assert_eq!(status, Some(6), "{stderr}");
    }

    let found = containers.query("node_load1{job=\"node\",instance=\"n1.example\"}");
    assert!(found["metric"].get("exported_job").is_none(), "{found}");
    let up = containers.query("job_instance:push_up:bool{job=\"node\",instance=\"n1.example\"}");
    assert_eq!(up["value"][1], "1");
    let page = containers.prometheus_page("/consoles/fleet.html");
    assert!(page.unwrap().contains("n1.example"));
}

fn groups_survive_a_restart(containers: &Containers) {
    let before = containers.groups();
    assert_eq!(before.len(), 1);
    containers.compose(PLAIN, "restart --timeout 30");
    containers.wait_until_healthy();
    assert_eq!(containers.groups(), before);
}

fn one_step_secures_the_gateway(containers: &Containers) {
    let host = containers.published(0);
    let host = host.trim_end_matches(":0");
    containers.succeed(&format!("deploy/secure.sh push.example 127.0.0.1 {host}"));
    containers.compose(SECURED, "up -d");
    let directory = containers.directory.path().join("deploy/secured");
    let password = containers.secured("node.password");
    wait_for("the secured gateway", || {
        (containers.status("node", &password) == "200").then_some(())
    });
    assert_eq!(containers.status("node", "geheim"), "401");
    assert_eq!(containers.status("nobody", &password), "401");
    assert_eq!(containers.status("prometheus", &containers.secured("prometheus.password")), "200");
    containers.wait_until_healthy();
    let addr = containers.published(containers.gateway);
    let (plain, stderr) = containers.push("n3.example", &addr);
    assert_eq!(plain, Some(7), "{stderr}");
    assert!(stderr.contains("HTTP request to an HTTPS server"), "{stderr}");
    let pushed = containers.push("n3.example", &format!("https://{addr}"));
    assert_eq!(pushed, (Some(0), String::new()));
    containers.last_scrape_after("");

    // Secrets are private, and only those containers have them that need them.
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&directory), 0o700);
    for secret in ["ca.key", "node.password"] {
        assert_eq!(mode(&directory.join(secret)), 0o600);
        for service in ["gateway", "prometheus"] {
            let mounts = containers.inspect(service)["Mounts"].to_string();
            assert!(!mounts.contains(secret), "{mounts}");
        }
    }
    let shown = containers.succeed(&docs::command("docs/security.md", "openssl x509"));
    assert!(shown.contains("DNS:push.example") && shown.contains("notAfter="), "{shown}");
    // A rerun makes another certificate from the same CA.
    let (ca, certificate) = (containers.secured("ca.crt"), containers.secured("gateway.crt"));
    containers.succeed(&format!("deploy/secure.sh {host}"));
    assert_eq!(containers.secured("ca.crt"), ca);
    assert_eq!(containers.secured("node.password"), password);
    assert_ne!(containers.secured("gateway.crt"), certificate);
    containers.compose(SECURED, "up -d --force-recreate");
    wait_for("the gateway with its new certificate", || {
        let pushed = containers.push("n4.example", &format!("https://{addr}"));
        (pushed == (Some(0), String::new())).then_some(())
    });
}

fn users_change_without_a_restart(containers: &Containers) {
    let change = |start: &str| containers.succeed(&docs::command("docs/security.md", start));
    let old = containers.secured("node.password");
    change("deploy/secure.sh --add-user node2");
    assert_eq!(containers.status("node2", &containers.secured("node2.password")), "200");
    assert_eq!(containers.status("node", &old), "200");
    change("deploy/secure.sh --remove-user node");
    assert_eq!(containers.status("node", &old), "401");
    assert_eq!(containers.status("node2", &containers.secured("node2.password")), "200");

    let old = containers.secured("prometheus.password");
    change("deploy/secure.sh --add-user prometheus");
    assert_eq!(containers.status("prometheus", &old), "401");
    containers.last_scrape_after(&containers.last_scrape_after(""));

    for (arguments, error) in [
        ("--remove-user prometheus", "Prometheus needs"),
        ("--add-user", "give a user"),
        ("--add-user A", "give a user"),
    ] {
        let output = containers.run(&format!("deploy/secure.sh {arguments}"));
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(error), "{output:?}");
    }
}

fn prune_has_a_user_of_its_own(containers: &Containers) {
    let root = containers.directory.path().display().to_string();
    let mut lines =
        docs::block("docs/security.md", "deploy/secure.sh --add-user prune").into_iter();
    containers.succeed(&lines.next().unwrap());
    for line in lines {
        let line = replace(&replace(&line, "sudo ", ""), "/etc/", &format!("{root}/etc/"));
        containers.succeed(&line);
    }
    for (file, mode) in [("password", 0o400), ("ca.crt", 0o444)] {
        let found =
            fs::metadata(containers.directory.path().join("etc/pgw-prune").join(file)).unwrap();
        assert_eq!((found.permissions().mode() & 0o777, found.uid()), (mode, 65534));
    }

    // By the variables in cron's file, and by the options of a command by hand.
    let here = |text: &str| {
        let text = text.replace("/etc/", &format!("{root}/etc/"));
        replace(&text, "localhost:9091", &format!("localhost:{}", containers.gateway))
    };
    let variables = docs::block("docs/security.md", "PGW_ADDR=https://localhost:9091").join(" ");
    let options =
        docs::command("docs/monitoring.md", "pgw-forwarder --prune 86400 --pgw-addr https:");
    let options = options.strip_prefix("pgw-forwarder ").unwrap();
    for line in [
        format!("env {} {FORWARDER} --prune 86400 --pgw-job node --dry-run", here(&variables)),
        format!("{FORWARDER} {}", here(options)),
    ] {
        assert_eq!(containers.succeed(&line), "");
        // A second counts as a day here.
        let line = replace(&line, "86400", "1");
        wait_for("a stale group", || {
            containers.succeed(&line).contains("n1.example").then_some(())
        });
    }

    // The runbook's view of the gateway. The test only replaces the prompt for the password.
    let line = docs::command("docs/troubleshooting.md", "curl -s --cacert");
    let login = format!("prometheus:{}", containers.secured("prometheus.password"));
    let line = replace(&here(&line), "--user prometheus", &format!("--user {login}"));
    assert!(containers.succeed(&line).contains("n1.example"));
}
