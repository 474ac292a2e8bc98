//! The engine in a simulated world.

use clone_tests::engine_sim::{Figures, run};
use persistent_data::sim::seeds;

#[test]
fn clients_see_a_plain_copy_of_the_source_whatever_fails_and_whenever_the_power_goes() {
    let name = "clients_see_a_plain_copy_of_the_source_whatever_fails_and_whenever_the_power_goes";
    let mut all = Figures::default();
    for seed in seeds(name, 1500) {
        match run(seed.value(), None) {
            Ok(figures) => all.add(&figures),
            Err(violation) => panic!("{violation}"),
        }
    }
    println!("{all:?}");
}
