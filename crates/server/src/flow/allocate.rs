//! How the server's seats are divided: nominal shares, and what levels lend each other as demand goes.

use super::demand::Demand;

/// Targets below this count as this, so that proportions can be told.
const LEAST_TARGET: f64 = 0.001;

/// What a level may have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Limits {
    /// Its share by configuration.
    pub(super) nominal: u32,
    /// What it keeps whatever others need.
    pub(super) lower: u32,
    /// What it has at most when others lend theirs.
    pub(super) upper: u32,
}

/// Limits of all levels, of `(shares, lendable per cent, borrowing limit per cent)` each.
pub(super) fn limits(total: u32, levels: &[(u32, u32, Option<u32>)]) -> Vec<Limits> {
    let sum: f64 = levels.iter().map(|(shares, ..)| f64::from(*shares)).sum();
    let limit = |&(shares, lendable, borrowing): &(u32, u32, Option<u32>)| {
        let nominal = (f64::from(total) * f64::from(shares) / sum.max(1.0)).ceil() as u32;
        let part = |percent: u32| (f64::from(nominal) * f64::from(percent) / 100.0).round() as u32;
        Limits { nominal, lower: nominal - part(lendable).min(nominal), upper: nominal + borrowing.map_or(total, part) }
    };
    levels.iter().map(limit).collect()
}

/// A level as the division sees it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Claim {
    /// It takes what it needs, without limit.
    pub(super) exempt: bool,
    /// What it may have.
    pub(super) limits: Limits,
    /// What it could use.
    pub(super) demand: Demand,
}

impl Claim {
    /// What it must have now: what it used at most, within its nominal share.
    fn floor(&self) -> u32 {
        match self.exempt {
            true => self.limits.lower.max(self.demand.highest),
            false => self.limits.lower.max(self.limits.nominal.min(self.demand.highest)),
        }
    }

    /// What it should have.
    pub(super) fn target(&self) -> f64 {
        f64::from(self.floor()).max(self.demand.smoothed)
    }
}

/// Seats for each claim until the next period, and the fraction of its target that each gets which no bound holds back.
pub(super) fn divide(claims: &[Claim]) -> (Vec<u32>, f64) {
    let total: u32 = claims.iter().map(|c| c.limits.nominal).sum();
    let taken: u32 = claims.iter().filter(|c| c.exempt).map(Claim::floor).sum();
    let remaining = i64::from(total) - i64::from(taken);
    let limited: Vec<&Claim> = claims.iter().filter(|c| !c.exempt).collect();
    let lowest: u32 = limited.iter().map(|c| c.limits.lower).sum();
    let floors: u32 = limited.iter().map(|c| c.floor()).sum();
    let (seats, fair): (Vec<u32>, f64) = if remaining <= i64::from(lowest) {
        (limited.iter().map(|c| c.limits.lower).collect(), 0.0)
    } else if remaining <= i64::from(floors) {
        let share = (remaining - i64::from(lowest)) as f64 / f64::from(floors - lowest);
        let part = |c: &&Claim| c.limits.lower + (f64::from(c.floor() - c.limits.lower) * share).round() as u32;
        (limited.iter().map(part).collect(), 0.0)
    } else {
        fill(f64::from(total), &limited)
    };
    let mut seats = seats.into_iter();
    let of = |c: &Claim| if c.exempt { c.floor() } else { seats.next().unwrap_or(c.limits.lower) };
    (claims.iter().map(of).collect(), fair)
}

/// Raises one proportion of all targets, each within its bounds, until the sum is reached.
fn fill(sum: f64, claims: &[&Claim]) -> (Vec<u32>, f64) {
    let target = |c: &Claim| c.target().max(LEAST_TARGET);
    let given =
        |c: &Claim, p: f64| (p * target(c)).clamp(f64::from(c.floor()), f64::from(c.limits.upper.max(c.floor())));
    let all = |p: f64| claims.iter().map(|c| given(c, p)).sum::<f64>();
    let bounds = |c: &&Claim| [f64::from(c.floor()) / target(c), f64::from(c.limits.upper) / target(c)];
    let mut steps: Vec<f64> = claims.iter().flat_map(bounds).collect();
    steps.sort_by(f64::total_cmp);
    let mut fair = steps.last().copied().unwrap_or_default();
    let mut before = 0.0;
    for step in steps {
        if all(step) >= sum {
            // Between two bounds the sum grows in a straight line.
            let (low, high) = (all(before), all(step));
            fair =
                if high > low { before + (step - before) * ((sum - low) / (high - low)).clamp(0.0, 1.0) } else { step };
            break;
        }
        before = step;
    }
    (claims.iter().map(|c| given(c, fair).round() as u32).collect(), fair)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(nominal: u32, lower: u32, smoothed: f64) -> Claim {
        let demand = Demand { smoothed, highest: smoothed as u32, ..Demand::default() };
        Claim { exempt: false, limits: Limits { nominal, lower, upper: nominal + 600 }, demand }
    }

    #[test]
    fn shares_of_the_defaults() {
        let shares = [(30, 33, None), (40, 25, None), (10, 0, None), (40, 50, None), (100, 90, None), (20, 50, None)];
        let all: Vec<_> = shares.into_iter().chain([(5, 0, None), (0, 0, None)]).collect();
        let limits = limits(600, &all);
        let told: Vec<_> = limits.iter().map(|l| (l.nominal, l.lower, l.upper)).collect();
        let expected = [
            (74, 50, 674),
            (98, 73, 698),
            (25, 25, 625),
            (98, 49, 698),
            (245, 24, 845),
            (49, 24, 649),
            (13, 13, 613),
            (0, 0, 600),
        ];
        assert_eq!(told, expected);
    }

    #[test]
    fn the_idle_lend_to_the_busy_and_keep_their_lower_limit() {
        let claims = [claim(100, 10, 0.0), claim(100, 60, 0.0), claim(100, 50, 400.0)];
        let (seats, _) = divide(&claims);
        assert_eq!(seats, [10, 60, 230]);
        // Who needs its own again, gets its own again.
        let claims = [claim(100, 10, 100.0), claim(100, 60, 0.0), claim(100, 50, 400.0)];
        let (seats, _) = divide(&claims);
        assert_eq!(seats, [100, 60, 140]);
        assert_eq!(seats.iter().sum::<u32>(), 300);
    }

    #[test]
    fn nobody_waits_for_the_exempt_and_they_wait_for_nobody() {
        let mut exempt = claim(0, 0, 50.0);
        exempt.exempt = true;
        let (seats, fair) = divide(&[exempt, claim(100, 40, 100.0), claim(100, 40, 100.0)]);
        assert_eq!((seats, fair), (vec![50, 75, 75], 0.0));
        exempt.demand.highest = 500;
        assert_eq!(divide(&[exempt, claim(100, 40, 100.0)]).0, [500, 40]);
    }
}
