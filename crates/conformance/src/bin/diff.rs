//! `diff [ROUNDS] [FIRST SEED] [KIND]`: sends the same requests to the APIs of the kubeconfigs in `OURS` and `THEIRS`
//! and prints where the answers part. `cargo xtask soak diff` starts our side.

use std::path::PathBuf;
use std::process::ExitCode;

use skiff_conformance::{Differ, Wire};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match run(&args) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &[String]) -> Result<usize, String> {
    let kubeconfig = |name: &str| std::env::var_os(name).map(PathBuf::from).ok_or_else(|| format!("{name} is not set"));
    let (ours, theirs) = (kubeconfig("OURS")?, kubeconfig("THEIRS")?);
    let number = |at: usize, default: u64| {
        args.get(at).map_or(Ok(default), |text| text.parse().map_err(|e| format!("{text}: {e}")))
    };
    let (rounds, first) = (number(0, 20)?, number(1, 1)?);
    let filter = args.get(2).map(String::as_str).unwrap_or_default();
    let runtime = tokio::runtime::Runtime::new().map_err(|e| e.to_string())?;
    runtime.block_on(async {
        let wires = (Wire::new(&ours)?, Wire::new(&theirs)?);
        let mut differ = Differ::new(wires.0, wires.1).await?;
        let mut broken = 0;
        for seed in first..first + rounds {
            if let Err(error) = differ.run(seed, filter).await {
                eprintln!("seed {seed}: {error}");
                broken += 1;
            }
        }
        let (requests, found) = differ.found();
        let (explained, new): (Vec<_>, Vec<_>) = found.into_iter().partition(|found| found.why.is_some());
        for difference in &new {
            let parting = &difference.parting;
            println!("{}x {} {}", difference.times, parting.what, difference.kinds.join(","));
            println!("  {}\n  ours:   {}\n  theirs: {}\n", difference.request, parting.ours, parting.theirs);
        }
        for difference in &explained {
            println!("{}x {}: {}", difference.times, difference.parting.what, difference.why.unwrap_or_default());
        }
        let seeds = format!("seeds {first} to {}", first + rounds - 1);
        println!("{requests} requests, {seeds}: {} differences, {} explained ones", new.len(), explained.len());
        Ok(new.len() + broken)
    })
}
