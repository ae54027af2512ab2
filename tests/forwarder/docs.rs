//! The pages for users: their links lead somewhere, and each command has a test or a reason.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// The pages, and the most lines that each may have.
const PAGES: [(&str, usize); 9] = [
    ("README.md", 180),
    ("docs/install.md", 130),
    ("docs/monitoring.md", 130),
    ("docs/troubleshooting.md", 150),
    ("docs/security.md", 120),
    ("docs/scaling.md", 140),
    ("docs/design.md", 80),
    ("CONTRIBUTING.md", 70),
    ("SECURITY.md", 20),
];

/// The pages whose lines a program or its history determines.
const OTHER_PAGES: [&str; 2] = ["docs/reference.md", "CHANGELOG.md"];

/// Programs whose commands are looked for in sentences and tables.
const PROGRAMS: [&str; 12] = [
    "sudo",
    "install.sh",
    "pgw-forwarder",
    "docker",
    "journalctl",
    "systemctl",
    "systemd-analyze",
    "curl",
    "ss",
    "fleet.sh",
    "secure.sh",
    "release.sh",
];

const FLEET: &str = "it measures a whole machine for minutes";
const LOG: &str = "it only shows the log, which the machines of the tests read by other options";
const STATE: &str = "it only shows the state of this machine";
const NO_MYSQL: &str = "the tests push another exporter in the same way: node_exporters::several_exporters_push_side_by_side";
const NO_CLUSTER: &str = "no distribution packages the cluster: victoria_metrics::awkward_instances_reach_the_urls_of_a_cluster_unchanged uses the URL";

/// Each command in the pages, with the test that runs it, or the reason why no test does. A test is
/// `module::function`. It may run the command with other addresses and paths.
const COMMANDS: &[(&str, &str)] = &[
    // README.md
    (
        "curl -s http://$EXPORTER_ADDR/$EXPORTER_METRIC | curl --data-binary @- http://$PGW_ADDR/metrics/job/$PGW_JOB/instance/$PGW_INSTANCE",
        "page_commands::curl_pair_of_the_readme_has_the_faults_that_the_readme_lists",
    ),
    ("./install.sh --demo", "demo::demo_shows_the_whole_pipeline_and_leaves_nothing_behind"),
    ("tests/run.sh", "it runs the tests"),
    ("docker compose -f deploy/compose.yaml up -d", "compose::monitoring_host_runs_in_containers"),
    (
        "RELEASE_URL=https://files.example/pgw-forwarder/v0.1.0 deploy/release.sh",
        "release::release_made_in_another_directory_has_the_same_bytes",
    ),
    (
        "curl -fLO https://files.example/pgw-forwarder/v0.1.0/install.sh",
        "the story of download::lone_script_joins_by_its_download_and_changes_nothing_without_it starts with this file",
    ),
    (
        "sudo sh install.sh --pgw-addr push.example:9091",
        "node_installation::node_joins_with_one_command_and_leaves_no_trace",
    ),
    (
        "sudo sh install.sh --uninstall",
        "node_installation::node_joins_with_one_command_and_leaves_no_trace",
    ),
    (
        "sudo sh install.sh --run",
        "node_settings::settings_change_by_a_rerun_and_the_key_by_leaving_first",
    ),
    ("journalctl -t pgw-forwarder", LOG),
    // docs/install.md
    ("sudo sh install.sh --list", "node_failures::node_and_exporter_return_after_a_failure"),
    (
        "sudo sh install.sh --name mysqld --exporter-addr 127.0.0.1:9104 --pgw-addr push.example:9091",
        NO_MYSQL,
    ),
    ("journalctl -t pgw-forwarder-mysqld", LOG),
    (
        "sudo sh install.sh --pgw-addr push.example:9091 --socket",
        "node_exporters::socket_is_open_to_no_other_user",
    ),
    ("deploy/release.sh --help", "it only shows text"),
    (
        "sudo PGW_FORWARDER_MIRROR=https://mirror.example/pgw-forwarder sh install.sh --pgw-addr push.example:9091",
        "download::lone_script_joins_by_its_download_and_changes_nothing_without_it",
    ),
    (
        "sudo https_proxy=http://proxy.example:3128 sh install.sh --pgw-addr push.example:9091",
        "the tests of download have no proxy: curl, wget and apt-helper have their own",
    ),
    (
        "tar -xzf pgw-forwarder-0.1.0-x86_64-unknown-linux-gnu.tar.gz",
        "release::bundle_has_a_static_program_and_all_that_install_sh_needs",
    ),
    (
        "sudo pgw-forwarder-0.1.0-x86_64-unknown-linux-gnu/install.sh --pgw-addr push.example:9091",
        "node_installation::node_joins_with_one_command_and_leaves_no_trace",
    ),
    (
        "sudo apt install ./pgw-forwarder_0.1.0-1_amd64.deb",
        "packages::package_starts_nothing_and_its_removal_takes_the_node_out",
    ),
    (
        "sudo /usr/share/pgw-forwarder/install.sh --pgw-addr push.example:9091",
        "packages::package_starts_nothing_and_its_removal_takes_the_node_out",
    ),
    (
        "ansible-playbook --inventory HOSTS deploy/ansible/nodes.yml",
        "ansible::playbook_joins_a_node_and_changes_nothing_the_second_time",
    ),
    ("cargo build --release --locked", "tests/run.sh runs it before the tests"),
    (
        "sudo install target/release/pgw-forwarder /usr/local/bin/",
        "page_commands::node_installed_by_hand_pushes",
    ),
    (
        "sudo systemd-sysusers --inline 'u pgw-forwarder -'",
        "page_commands::node_installed_by_hand_pushes",
    ),
    ("pgw-forwarder --dry-run", "page_commands::node_installed_by_hand_pushes"),
    ("PGW_ADDR=push.example:9091 pgw-forwarder -v", "page_commands::node_installed_by_hand_pushes"),
    (
        "sudo install -m 600 crontab.example /etc/cron.d/pgw-forwarder",
        "page_commands::node_installed_by_hand_pushes",
    ),
    // docs/monitoring.md
    (
        "docker compose -f deploy/compose.yaml build --build-arg PUSHGATEWAY_VERSION=v1.11.2",
        "it downloads an image of another version",
    ),
    (
        "pgw-forwarder --delete --pgw-addr 127.0.0.1:9091 --pgw-job node --pgw-instance web-1.example",
        "page_commands::commands_for_nodes_that_are_gone_remove_them",
    ),
    (
        "pgw-forwarder --prune 86400 --pgw-addr 127.0.0.1:9091 --pgw-job node --dry-run",
        "page_commands::commands_for_nodes_that_are_gone_remove_them",
    ),
    (
        "pgw-forwarder --prune 86400 --pgw-addr 127.0.0.1:9091 --pgw-job node",
        "page_commands::commands_for_nodes_that_are_gone_remove_them",
    ),
    // docs/troubleshooting.md
    ("journalctl -t pgw-forwarder -n 3", LOG),
    ("journalctl -u exporter -n 20", LOG),
    ("journalctl -u exporter", LOG),
    ("journalctl -u cron", LOG),
    (
        "systemctl stop exporter",
        "node_exporters::socket_is_open_to_no_other_user stops and starts it",
    ),
    (
        "systemctl start exporter.socket",
        "node_exporters::socket_is_open_to_no_other_user uses the socket",
    ),
    ("systemctl status cron", STATE),
    ("systemctl restart exporter", "node_failures restarts the exporter in other ways"),
    ("systemctl status exporter", STATE),
    ("ss -ltnp", STATE),
    (
        "curl -s http://127.0.0.1:9014/metrics | sed -n 1359p | cat -v",
        "page_commands::curl_pair_of_the_readme_has_the_faults_that_the_readme_lists",
    ),
    (
        "curl -s --unix-socket /run/node-exporter/metrics.sock http://localhost/metrics",
        "the machines of the tests have no curl then",
    ),
    (
        r#"curl -s http://127.0.0.1:9091/api/v1/metrics | jq -c '.data[] | select(has("app_up")) | [.labels, .app_up.type]'"#,
        "page_commands::runbook_finds_a_family_and_deletes_a_group_without_instance",
    ),
    (
        "curl -X DELETE http://127.0.0.1:9091/metrics/job/backup",
        "page_commands::runbook_finds_a_family_and_deletes_a_group_without_instance",
    ),
    ("docker compose -f deploy/compose.yaml ps", STATE),
    ("docker compose -f deploy/compose.yaml logs gateway", LOG),
    (
        "curl -s http://127.0.0.1:9091/api/v1/metrics | jq -c '.data[] | select(tojson | test(\"\\ufffd|\\\"(GAUGE_HISTOGRAM|pushgateway_http_)\")) | .labels'",
        "alerts_and_fleet_page::group_that_makes_the_metrics_unreadable_is_found_by_the_alerts_command",
    ),
    // docs/security.md
    ("deploy/secure.sh push.example", "compose::one_step_secures_the_gateway"),
    (
        "docker compose -f deploy/compose.yaml -f deploy/compose.secured.yaml up -d",
        "compose::one_step_secures_the_gateway",
    ),
    (
        "sudo sh install.sh --pgw-addr https://push.example:9091 --pgw-cacert ca.crt --pgw-user node --pgw-password-file node.password",
        "node_settings::only_the_user_of_cron_can_read_credentials",
    ),
    (
        "openssl x509 -noout -enddate -ext subjectAltName -in deploy/secured/gateway.crt",
        "compose::one_step_secures_the_gateway",
    ),
    ("deploy/secure.sh --add-user node2", "compose::users_change_without_a_restart"),
    (
        "sudo sh install.sh --pgw-addr https://push.example:9091 --pgw-cacert ca.crt --pgw-user node2 --pgw-password-file node2.password",
        "node_settings::only_the_user_of_cron_can_read_credentials",
    ),
    ("deploy/secure.sh --remove-user node", "compose::users_change_without_a_restart"),
    ("deploy/secure.sh --add-user prometheus", "compose::users_change_without_a_restart"),
    (
        "docker compose -f deploy/compose.yaml -f deploy/compose.secured.yaml up -d --force-recreate",
        "compose::one_step_secures_the_gateway",
    ),
    ("deploy/secure.sh --add-user prune", "compose::prune_has_a_user_of_its_own"),
    (
        "sudo install -D -o nobody -m 400 deploy/secured/prune.password /etc/pgw-prune/password",
        "compose::prune_has_a_user_of_its_own",
    ),
    (
        "sudo install -D -o nobody -m 444 deploy/secured/ca.crt /etc/pgw-prune/ca.crt",
        "compose::prune_has_a_user_of_its_own",
    ),
    (
        "systemd-analyze security exporter.service",
        "node_exporters::unit_is_restricted_and_hides_no_metric",
    ),
    (
        "pgw-forwarder --prune 86400 --pgw-addr https://localhost:9091 --pgw-cacert /etc/pgw-prune/ca.crt --pgw-user prune --pgw-password-file /etc/pgw-prune/password --pgw-job node --dry-run",
        "compose::prune_has_a_user_of_its_own",
    ),
    (
        "curl -s --cacert deploy/secured/ca.crt --user prometheus https://localhost:9091/api/v1/metrics",
        "compose::prune_has_a_user_of_its_own",
    ),
    // docs/scaling.md
    ("tests/fleet.sh", FLEET),
    ("tests/fleet.sh 80", FLEET),
    ("tests/fleet.sh 200 --splay 50", FLEET),
    ("EXPORTER_METRIC='metrics?collect[]=...' tests/fleet.sh 200 --splay 50", FLEET),
    ("tests/fleet.sh 1000 --splay 50 --unchecked", FLEET),
    ("tests/fleet.sh 2000 --splay 50 --target victoriametrics", FLEET),
    (
        "sudo sh install.sh --pgw-addr push.example:9091 --exporter-metric 'metrics?collect[]=cpu&collect[]=diskstats&collect[]=filesystem&collect[]=loadavg&collect[]=meminfo&collect[]=netdev&collect[]=time&collect[]=uname'",
        "node_settings::settings_change_by_a_rerun_and_the_key_by_leaving_first",
    ),
    (
        "pgw-forwarder --prune 60 --dry-run",
        "unchecked_gateway::bad_group_is_refused_by_the_check_and_breaks_all_metrics_without_it",
    ),
    (
        "sudo sh install.sh --pgw-addr push-a.example:9091,push-b.example:9091",
        "node_settings::settings_change_by_a_rerun_and_the_key_by_leaving_first",
    ),
    (
        "victoria-metrics -storageDataPath=/var/lib/victoria-metrics -retentionPeriod=90d",
        "page_commands::commands_for_victoria_metrics_push_query_and_delete",
    ),
    (
        "sudo sh install.sh --pgw-addr http://vm.example:8428/api/v1/import/prometheus",
        "page_commands::commands_for_victoria_metrics_push_query_and_delete uses the URL, and not install.sh",
    ),
    (
        "curl 'http://vm.example:8428/api/v1/query?query=node_load1'",
        "page_commands::commands_for_victoria_metrics_push_query_and_delete",
    ),
    (
        "sudo sh install.sh --pgw-addr http://vminsert.example:8480/insert/0/prometheus/api/v1/import/prometheus",
        NO_CLUSTER,
    ),
    (
        "curl -g -X POST 'http://vm.example:8428/api/v1/admin/tsdb/delete_series?match[]={instance=\"n1\"}'",
        "page_commands::commands_for_victoria_metrics_push_query_and_delete",
    ),
    (
        "vmagent -httpListenAddr=:8429 -remoteWrite.url=https://store.example/api/v1/write -remoteWrite.queues=1 -remoteWrite.tmpDataPath=/var/lib/vmagent",
        "page_commands::commands_for_remote_write_start_their_programs",
    ),
    (
        "sudo sh install.sh --pgw-addr http://vmagent.example:8429/api/v1/import/prometheus",
        "page_commands::commands_for_remote_write_start_their_programs uses the URL, and not install.sh",
    ),
    (
        "prometheus --config.file=deploy/remote-write/prometheus.yml --web.enable-remote-write-receiver",
        "page_commands::commands_for_remote_write_start_their_programs",
    ),
    (
        "vmalert -rule=deploy/remote-write/rules.yaml -datasource.url=http://vm.example:8428 -remoteWrite.url=http://vm.example:8428 -notifier.url=http://alertmanager.example:9093",
        "page_commands::commands_for_remote_write_start_their_programs",
    ),
    // CONTRIBUTING.md and SECURITY.md
    ("cargo test --bin pgw-forwarder", "it runs tests"),
    ("cargo test --test forwarder -- main_job:: fault_matrix::", "it runs tests"),
    ("pgw-forwarder --version", "options::help_reference_and_crontab_have_the_same_names"),
];

/// Blocks that are no commands, by their page and the start of their first line, and the test that compares
/// them.
const TEXTS: &[(&str, &str, &str)] = &[
    (
        "docs/monitoring.md",
        "pgw_forwarder_exit_status{",
        "reports::report_is_one_gauge_that_is_put_whatever_the_options_of_pushes_are",
    ),
    ("docs/security.md", "PGW_ADDR=https://localhost:9091", "compose::prune_has_a_user_of_its_own"),
    ("docs/scaling.md", "static_configs:", "several_gateways::targets"),
    ("docs/scaling.md", "max without (gateway) (", "several_gateways::once"),
];

/// The text of a page.
pub fn page(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

/// A page in parts: its blocks of code, without indentation, and the other lines.
pub fn parts(page: &str) -> (Vec<Vec<String>>, String) {
    let (mut blocks, mut prose) = (Vec::new(), String::new());
    let mut block: Option<Vec<&str>> = None;
    let (mut is_fenced, mut was_blank) = (false, true);
    for line in page.lines().chain([""]) {
        let is_blank = line.trim().is_empty();
        let is_fence = line.trim_start().starts_with("```");
        is_fenced ^= is_fence;
        let is_indented = line.starts_with("    ") && (was_blank || block.is_some());
        if !is_fence && !is_blank && (is_fenced || is_indented) {
            block.get_or_insert_default().push(line);
        } else if let Some(lines) = block.take() {
            let indentation =
                |line: &&str| line.chars().take_while(char::is_ascii_whitespace).count();
            let least = lines.iter().map(indentation).min().unwrap_or_default();
            blocks.push(lines.iter().map(|line| line[least..].to_owned()).collect());
        }
        if !(is_fenced || is_fence || is_indented) {
            prose.push_str(line);
            prose.push('\n');
        }
        was_blank = is_blank;
    }
    (blocks, prose)
}

/// The code in the sentences and tables of a page.
fn inline_code(prose: &str) -> impl Iterator<Item = String> {
    let parts = prose.split('`').skip(1).step_by(2);
    parts.map(|code| code.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// The lines of a block, without comments. A backslash continues a line.
pub fn command_lines(block: &[String]) -> Vec<String> {
    let mut lines = vec![String::new()];
    for line in block {
        let line = line.split(" # ").next().unwrap().trim();
        let last = lines.last_mut().unwrap();
        match line.strip_suffix('\\') {
            Some(start) => *last += start,
            None => {
                *last += line;
                lines.push(String::new());
            }
        }
    }
    lines.pop();
    lines
}

/// The first line of code in a page that starts so.
pub fn command(page_name: &str, start: &str) -> String {
    let page = page(page_name);
    let (blocks, prose) = parts(&page);
    let lines = blocks.iter().flat_map(|block| command_lines(block)).chain(inline_code(&prose));
    let mut lines = lines.filter(|line| line.starts_with(start));
    lines.next().unwrap_or_else(|| panic!("{page_name} has no command {start:?}"))
}

/// The block of a page whose first line starts so.
pub fn block(page_name: &str, start: &str) -> Vec<String> {
    let (blocks, _) = parts(&page(page_name));
    let mut found = blocks.into_iter().filter(|block| block[0].starts_with(start));
    found.next().unwrap_or_else(|| panic!("{page_name} has no block {start:?}"))
}

/// Whether code in a sentence is a command of one of the programs, and more than its name.
fn is_command(code: &str) -> bool {
    let is_variable = |word: &&str| {
        word.split_once('=').is_some_and(|(name, _)| {
            !name.is_empty() && name.chars().all(|c| c.is_ascii_uppercase() || c == '_')
        })
    };
    let mut words = code.split(' ').skip_while(is_variable);
    let path = words.next().unwrap_or_default();
    let program = path.trim_start_matches("./");
    let program = program.trim_start_matches("tests/").trim_start_matches("deploy/");
    PROGRAMS.contains(&program) && (words.next().is_some() || program == "fleet.sh")
}

/// Asserts that there is a test of this name, `module::function`.
fn assert_is_test(name: &str) {
    let (module, function) = name.split_once("::").unwrap();
    let source = page(&format!("tests/forwarder/{module}.rs"));
    assert!(source.contains(&format!("fn {function}(")), "there is no {name}");
}

#[test]
fn every_command_is_run_by_a_test_or_has_a_reason() {
    let known: BTreeSet<_> = COMMANDS.iter().map(|(command, _)| (*command).to_owned()).collect();
    assert_eq!(known.len(), COMMANDS.len(), "a command is listed twice");
    let mut found = BTreeSet::new();
    for (name, _) in PAGES {
        let (blocks, prose) = parts(&page(name));
        let is_text = |block: &[String]| {
            let is_known = |(page, start, _): &(&str, &str, &str)| {
                *page == name && block[0].starts_with(start)
            };
            // The second part is a drawing.
            TEXTS.iter().any(is_known) || block.iter().any(|line| line.contains('│'))
        };
        let commands = blocks.iter().filter(|block| !is_text(block)).flat_map(|b| command_lines(b));
        for command in commands.chain(inline_code(&prose).filter(|code| is_command(code))) {
            assert!(known.contains(&command), "{name}: no test runs {command:?}, see COMMANDS");
            found.insert(command);
        }
    }
    let gone: Vec<_> = known.difference(&found).collect();
    assert!(gone.is_empty(), "no page has {gone:?}");
    let values = COMMANDS.iter().map(|(_, by)| *by).chain(TEXTS.iter().map(|(.., by)| *by));
    for value in values {
        if value.contains("::") && !value.contains(' ') {
            assert_is_test(value);
        }
        // A reason may name a test as well.
        let names = value.split(' ').filter(|word| word.contains("::"));
        names.for_each(assert_is_test);
    }
}

/// The anchors of a page's headings, by the rule of GitHub.
fn anchors(prose: &str) -> BTreeSet<String> {
    let headings = prose.lines().filter(|line| line.starts_with('#'));
    let mut anchors = BTreeSet::new();
    for heading in headings {
        let text = heading.trim_start_matches('#').trim().to_lowercase();
        let is_kept = |c: &char| c.is_alphanumeric() || " -_".contains(*c);
        let anchor = text.chars().filter(is_kept).collect::<String>().replace(' ', "-");
        assert!(anchors.insert(anchor), "{heading:?} occurs twice");
    }
    anchors
}

/// The targets of a page's links and pictures.
fn links(prose: &str) -> Vec<String> {
    let without_code: String = prose.split('`').step_by(2).collect();
    let targets = without_code.split("](").skip(1);
    targets.map(|rest| rest.split(')').next().unwrap().to_owned()).collect()
}

#[test]
fn every_link_leads_to_a_file_and_every_anchor_to_a_heading() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut checked = 0;
    for name in PAGES.iter().map(|(name, _)| *name).chain(OTHER_PAGES) {
        let (_, prose) = parts(&page(name));
        for link in links(&prose) {
            if link.starts_with("https://") {
                continue;
            }
            let (file, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let target = match file {
                "" => root.join(name),
                _ => root.join(name).parent().unwrap().join(file),
            };
            assert!(target.exists(), "{name}: {link}");
            if !anchor.is_empty() {
                let (_, prose) = parts(&fs::read_to_string(&target).unwrap());
                assert!(anchors(&prose).contains(anchor), "{name}: {link}");
            }
            checked += 1;
        }
    }
    assert!(checked > 50, "{checked}");
}

#[test]
fn runbook_of_every_alert_has_a_heading() {
    let (_, prose) = parts(&page("docs/troubleshooting.md"));
    let anchors = anchors(&prose);
    for rules in ["deploy/prometheus/rules/pushed.yaml", "deploy/remote-write/rules.yaml"] {
        let rules = page(rules);
        let urls = rules.lines().filter_map(|line| line.trim().strip_prefix("runbook_url: "));
        let urls: Vec<_> = urls.collect();
        assert_eq!(urls.len(), rules.matches("- alert: ").count());
        for url in urls {
            let (file, anchor) = url.split_once('#').unwrap();
            assert!(file.ends_with("/docs/troubleshooting.md"), "{url}");
            assert!(anchors.contains(anchor), "{url}");
        }
    }
}

#[test]
fn pages_keep_their_limits() {
    for (name, limit) in PAGES {
        let lines = page(name).lines().count();
        assert!(lines <= limit, "{name} has {lines} lines, and may have {limit}");
    }
    let words = page("README.md").split_whitespace().count();
    assert!(words <= 1600, "README.md has {words} words");
}

/// Each module imports only modules below it in the table of docs/design.md.
#[test]
fn imports_point_down_the_table_of_the_source() {
    let design = page("docs/design.md");
    let (_, table) = design.split_once("Imports point down this list.").unwrap();
    let rows = table.lines().filter_map(|row| row.strip_prefix("| `"));
    let rows: Vec<_> = rows.map(|row| row.split('`').next().unwrap()).collect();
    let module = |row: &str| row.trim_end_matches('/').trim_end_matches(".rs").to_owned();
    let order: Vec<_> = rows.iter().map(|row| module(row)).collect();
    let mut imports = 0;
    for (place, row) in rows.iter().enumerate() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(row);
        let files = match path.is_dir() {
            true => fs::read_dir(&path).unwrap().map(|file| file.unwrap().path()).collect(),
            false => vec![path],
        };
        for file in files {
            let source = fs::read_to_string(&file).unwrap();
            let names = source.split("crate::").skip(1);
            for name in names.map(|rest| rest.split(|c: char| !c.is_alphanumeric()).next().unwrap())
            {
                let Some(other) = order.iter().position(|module| module == name) else { continue };
                assert!(other >= place, "{file:?} imports {name}");
                imports += 1;
            }
        }
    }
    assert!(imports > 20, "{imports}");
}

/// The messages that the tables explain must be those of the program, which tests provoke, or of its
/// libraries. A part of a message that varies is not compared.
#[test]
fn explained_messages_exist() {
    let mut sources = String::new();
    for directory in ["src", "src/http", "src/cli", "tests/forwarder"] {
        for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(directory)).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() && !path.ends_with("docs.rs") {
                sources += &fs::read_to_string(path).unwrap();
            }
        }
    }
    // A string may be broken into two lines.
    let sources = sources.split_whitespace().collect::<Vec<_>>().join(" ").replace("\\ ", "");
    let (_, prose) = parts(&page("docs/troubleshooting.md"));
    let rows = prose.lines().filter_map(|line| line.strip_prefix("| `"));
    let mut messages = 0;
    for row in rows {
        let (cell, _) = row.split_once(" |").unwrap();
        for message in inline_code(&format!("`{cell}")) {
            // The C library's.
            if message.starts_with("failed to lookup") {
                continue;
            }
            messages += 1;
            let varies = |c: char| c.is_ascii_digit() || "\"<>()".contains(c);
            for part in message.split("...").flat_map(|part| part.split(": ")) {
                for part in part.split(varies).map(str::trim).filter(|part| part.len() > 3) {
                    assert!(sources.contains(part), "{part:?} of {message:?} is in no source");
                }
            }
        }
    }
    assert!(messages > 20, "{messages}");
}
