//! What a user relies on, against the real programs. `tests/run.sh` installs them and runs this.

mod alerts_and_fleet_page;
mod booted_machine;
mod compose;
mod compression;
mod demo;
mod exposition_corpus;
mod fake;
mod fault_matrix;
mod host;
mod host_conditions;
mod hostile_servers;
mod install_script;
mod lock;
mod main_job;
mod node_installation;
mod options;
mod prune;
mod run;
mod servers;
mod several_gateways;
mod tls_and_credentials;
mod unchecked_gateway;
mod victoria_metrics;
