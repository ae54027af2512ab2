//! What a user relies on, against the real programs. `tests/run.sh` installs them and runs this.

mod compose;
mod crontab;
mod demo;
mod encodings;
mod fake;
mod faults;
mod hostile;
mod input;
mod lock;
mod machine;
mod monitoring;
mod neighbours;
mod node;
mod pipeline;
mod prune;
mod secured;
mod several;
mod stage;
mod unchecked;
mod victoria;
