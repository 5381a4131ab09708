//! The migrations are embedded by a macro that cannot see a file that is new; this can.

fn main() {
    println!("cargo:rerun-if-changed=../../migrations");
}
