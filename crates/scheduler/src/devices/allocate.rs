//! The search: request by request, device by device, and back where it does not work out.
//!
//! Devices of one request are only tried in their order, since {a, b} is {b, a}; each request may begin with any. What is
//! tried is noted in the search itself and taken back on the way out.

use k8s_openapi::api::resource::v1::{Device, DeviceAttribute};
use skiff_api::claims::tolerates;

use super::capacity::{is_enough, taken_by};
use super::pools::{Candidate, Counters, Site, draw};
use super::taken::{Capacity, Use, add};
use super::want::{Request, Want};
use super::{Fault, MOST_ALTERNATIVES, MOST_DEVICES};

/// After so many devices looked at on one node the search is given up.
const PATIENCE: u32 = 500_000;

/// A solution: what each claim gets.
#[derive(Debug, Default)]
pub struct Found {
    /// For each claim, its devices in the order of its requests.
    pub(super) picks: Vec<Vec<Pick>>,
    /// For each claim and request, the alternative that was taken.
    pub(super) chosen: Vec<Vec<usize>>,
}

/// A device for a request.
#[derive(Clone, Debug)]
pub(super) struct Pick {
    /// Its place among the candidates.
    pub(super) device: usize,
    pub(super) request: usize,
    /// What it takes of a device that others may take from too.
    pub(super) share: Option<Capacity>,
}

impl Found {
    /// How much the alternatives are to the claims' liking: the earlier in their lists, the better.
    pub fn score(&self, wants: &[&Want]) -> i64 {
        let lists = wants.iter().zip(&self.chosen).flat_map(|(want, chosen)| want.requests.iter().zip(chosen));
        let lists = lists.filter(|(alternatives, _)| alternatives.iter().any(|request| request.alternative.is_some()));
        lists.map(|(_, chosen)| MOST_ALTERNATIVES - *chosen as i64).sum()
    }
}

enum Step {
    Found,
    /// Not with what was taken so far.
    None,
    /// It would be more devices than a claim may have.
    TooMany,
}

struct Search<'a> {
    site: &'a Site<'a>,
    wants: &'a [&'a Want],
    /// For "all": which devices these are. By claim, request and alternative.
    all: Vec<Vec<Vec<Vec<usize>>>>,
    /// For each candidate, the claims that have taken it for themselves.
    holders: Vec<Vec<usize>>,
    /// For each candidate, how many have taken a share, and what these have of its capacities.
    shares: Vec<(usize, Capacity)>,
    /// For each pool, what was taken of its counters.
    drawn: Vec<Counters<'a>>,
    /// For each claim and constraint, the attributes of the devices that it is about.
    attributes: Vec<Vec<Vec<&'a DeviceAttribute>>>,
    found: Found,
    steps: u32,
}

/// Finds devices for the claims on a node; `None`: it has not got them.
///
/// # Errors
/// When something is wrong with the claims, their classes, or the node's pools.
pub fn allocate<'a>(site: &'a Site<'a>, wants: &'a [&'a Want]) -> Result<Option<Found>, Fault> {
    let mut search = Search {
        site,
        wants,
        all: Vec::with_capacity(wants.len()),
        holders: vec![Vec::new(); site.candidates.len()],
        shares: vec![Default::default(); site.candidates.len()],
        drawn: vec![Counters::new(); site.pools.len()],
        attributes: wants.iter().map(|want| vec![Vec::new(); want.constraints().len()]).collect(),
        found: Found {
            picks: vec![Vec::new(); wants.len()],
            chosen: wants.iter().map(|want| vec![0; want.requests.len()]).collect(),
        },
        steps: 0,
    };
    search.count()?;
    // Selectors that fail are left for the search to find, if it comes there.
    let step = if search.is_hopeless().unwrap_or(false) { Step::None } else { search.claim(0)? };
    match step {
        Step::Found => Ok(Some(search.found)),
        Step::None | Step::TooMany if site.pools.iter().any(|pool| pool.is_invalid) => Err(Fault::InvalidPools),
        Step::None | Step::TooMany => Ok(None),
    }
}

impl<'a> Search<'a> {
    /// Finds out what "all" is, and that no claim asks for too much.
    fn count(&mut self) -> Result<(), Fault> {
        for want in self.wants.iter().copied() {
            let (mut fewest, mut all) = (0_usize, Vec::new());
            for alternatives in &want.requests {
                let mut devices = Vec::new();
                for request in alternatives {
                    devices.push(if request.count.is_none() { self.all_for(want, request)? } else { Vec::new() });
                }
                let counts = alternatives.iter().zip(&devices);
                let least = counts.map(|(request, all)| request.count.unwrap_or(all.len())).min();
                fewest = least.unwrap_or(0).saturating_add(fewest);
                all.push(devices);
            }
            if fewest > MOST_DEVICES {
                return Err(Fault::TooMany { claim: want.name.clone(), number: fewest });
            }
            self.all.push(all);
        }
        Ok(())
    }

    /// Whether some request has too few devices even on its own: then no choice for the others helps.
    fn is_hopeless(&self) -> Result<bool, Fault> {
        for want in self.wants {
            for alternatives in &want.requests {
                let mut any = false;
                for request in alternatives {
                    any = any || self.is_enough_alone(want, request)?;
                }
                if !any {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    fn is_enough_alone(&self, want: &Want, request: &Request) -> Result<bool, Fault> {
        let mut missing = request.count.unwrap_or(0);
        for (place, candidate) in self.site.candidates.iter().enumerate() {
            if missing == 0 {
                break;
            }
            let is_usable = !self.is_held(0, request, place)
                && self.is_selected(want, request, candidate)?
                && !is_tainted(candidate.device, request)
                && self.share(request, candidate, place).is_some();
            missing -= usize::from(is_usable);
        }
        Ok(missing == 0)
    }

    /// Counts a look at a device.
    fn step(&mut self) -> Result<(), Fault> {
        self.steps += 1;
        match self.steps > PATIENCE {
            true => Err(Fault::TooLong { node: self.site.node.name.to_owned() }),
            false => Ok(()),
        }
    }

    fn all_for(&self, want: &Want, request: &Request) -> Result<Vec<usize>, Fault> {
        for pool in &self.site.pools {
            let what = match (pool.is_complete, pool.is_invalid) {
                (false, _) => "being updated",
                (true, true) => "invalid",
                (true, false) => continue,
            };
            return Err(Fault::Pool {
                claim: want.name.clone(),
                request: request.name().to_owned(),
                pool: format!("{}/{}", pool.id.0, pool.id.1),
                what,
            });
        }
        let mut all = Vec::new();
        for (place, candidate) in self.site.candidates.iter().enumerate() {
            if self.is_selected(want, request, candidate)? && self.share(request, candidate, place).is_some() {
                all.push(place);
            }
        }
        Ok(all)
    }

    /// Every claim from this one on.
    fn claim(&mut self, claim: usize) -> Result<Step, Fault> {
        if claim == self.wants.len() {
            return Ok(Step::Found);
        }
        // With other devices for the claims before it, an alternative with fewer devices may do.
        Ok(match self.request(claim, 0)? {
            Step::TooMany => Step::None,
            other => other,
        })
    }

    /// Every request of a claim from this one on.
    fn request(&mut self, claim: usize, request: usize) -> Result<Step, Fault> {
        let wants = self.wants;
        let Some(alternatives) = wants[claim].requests.get(request) else { return self.claim(claim + 1) };
        let mut outcome = Step::TooMany;
        for number in 0..alternatives.len() {
            self.found.chosen[claim][request] = number;
            match self.devices(claim, request, 0, 0)? {
                Step::Found => return Ok(Step::Found),
                Step::None => outcome = Step::None,
                Step::TooMany => {}
            }
        }
        Ok(outcome)
    }

    /// Every device of a request that it has not got yet, from a candidate on.
    fn devices(&mut self, claim: usize, request: usize, got: usize, from: usize) -> Result<Step, Fault> {
        self.step()?;
        let (wants, site) = (self.wants, self.site);
        let (want, chosen) = (wants[claim], self.found.chosen[claim][request]);
        let asked = &want.requests[request][chosen];
        let count = asked.count.unwrap_or(self.all[claim][request][chosen].len());
        if count == 0 && asked.count.is_none() {
            return Ok(Step::None);
        }
        if got >= count {
            return self.request(claim, request + 1);
        }
        if self.found.picks[claim].len().saturating_add(count - got) > MOST_DEVICES {
            return Ok(Step::TooMany);
        }
        if asked.count.is_none() {
            let place = self.all[claim][request][chosen][got];
            if !self.take(claim, request, place, true)? {
                return Ok(Step::None);
            }
            let step = self.devices(claim, request, got + 1, 0)?;
            if !matches!(step, Step::Found) {
                self.give_back(claim, request, place);
            }
            return Ok(step);
        }
        for (place, candidate) in site.candidates.iter().enumerate().skip(from) {
            self.step()?;
            // What is cheap to see goes first.
            if self.is_held(claim, asked, place)
                || !self.is_selected(want, asked, candidate)?
                || !self.take(claim, request, place, false)?
            {
                continue;
            }
            let step = self.devices(claim, request, got + 1, place + 1)?;
            if matches!(step, Step::Found) {
                return Ok(step);
            }
            self.give_back(claim, request, place);
            if matches!(step, Step::TooMany) {
                return Ok(step);
            }
        }
        Ok(Step::None)
    }

    /// Whether somebody has the device for himself; to an administrator that matters only within one claim.
    fn is_held(&self, claim: usize, request: &Request, place: usize) -> bool {
        if request.is_admin {
            return self.holders[place].contains(&claim);
        }
        let candidate = &self.site.candidates[place];
        let shareable = candidate.device.allow_multiple_allocations == Some(true);
        let held = |taken: &Use| taken.dedicated > 0 || (taken.is_shared() && !shareable);
        !self.holders[place].is_empty() || candidate.taken.is_some_and(held)
    }

    fn is_selected(&self, want: &Want, request: &Request, candidate: &Candidate<'_>) -> Result<bool, Fault> {
        for (selector, of_class, number) in &request.selectors {
            match selector.selects(candidate.slice, candidate.place) {
                Ok(true) => {}
                Ok(false) => return Ok(false),
                Err((what, why)) => {
                    let of = match of_class {
                        true => format!("class {}", request.class.metadata.name.as_deref().unwrap_or_default()),
                        false => format!("claim {}", want.name),
                    };
                    return Err(Fault::Selector { of, number: *number, what, why });
                }
            }
        }
        Ok(candidate.slice.device_reaches(candidate.place, self.site.node))
    }

    /// What the request takes of the device's capacities, if that is left.
    fn share(&self, request: &Request, candidate: &Candidate<'_>, place: usize) -> Option<Capacity> {
        let share = taken_by(&request.capacity, candidate.device)?;
        let held = [candidate.taken.map(|taken| &taken.capacity), Some(&self.shares[place].1)];
        is_enough(candidate.device, held, &share).then_some(share)
    }

    /// Takes a device that is selected, if it is to be had. `must`: it is one of all.
    fn take(&mut self, claim: usize, request: usize, place: usize, must: bool) -> Result<bool, Fault> {
        let (wants, site) = (self.wants, self.site);
        let want = wants[claim];
        let asked = &want.requests[request][self.found.chosen[claim][request]];
        let candidate = &site.candidates[place];
        let device = candidate.device;
        let shareable = device.allow_multiple_allocations == Some(true);
        if self.is_held(claim, asked, place) || is_tainted(device, asked) {
            return Ok(false);
        }
        let Some(share) = self.share(asked, candidate, place) else { return Ok(false) };
        let draws = self.draws(place);
        if draws {
            draw(&mut self.drawn[candidate.pool], device, 1);
            let drawn = &self.drawn[candidate.pool];
            let enough =
                |free: &Counters<'_>| drawn.iter().all(|(name, n)| free.get(name).is_some_and(|free| n <= free));
            if !site.pools[candidate.pool].free(enough) {
                draw(&mut self.drawn[candidate.pool], device, -1);
                return Ok(false);
            }
        }
        if !self.constrain(claim, want, asked, candidate) {
            if draws {
                draw(&mut self.drawn[candidate.pool], device, -1);
            }
            if !must {
                return Ok(false);
            }
            let device = format!("{}/{}", site.pools[candidate.pool].id.0, site.pools[candidate.pool].id.1);
            return Err(Fault::Constraint {
                claim: want.name.clone(),
                request: asked.name().to_owned(),
                device: format!("{device}/{}", candidate.device.name),
            });
        }
        match shareable {
            true => {
                let (count, held) = &mut self.shares[place];
                *count += 1;
                share.iter().for_each(|(name, amount)| add(held, name, *amount, 1));
            }
            false => self.holders[place].push(claim),
        }
        self.found.picks[claim].push(Pick { device: place, request, share: shareable.then_some(share) });
        Ok(true)
    }

    /// Whether taking the device draws from counters: of a shared one, only the first does.
    fn draws(&self, place: usize) -> bool {
        let candidate = &self.site.candidates[place];
        let shared = self.shares[place].0 > 0 || candidate.taken.is_some_and(|taken| taken.is_shared());
        candidate.device.consumes_counters.as_ref().is_some_and(|all| !all.is_empty()) && !shared
    }

    /// Undoes the last [`Search::take`].
    fn give_back(&mut self, claim: usize, request: usize, place: usize) {
        let (wants, site) = (self.wants, self.site);
        let Some(pick) = self.found.picks[claim].pop() else { return };
        let want = wants[claim];
        let asked = &want.requests[request][self.found.chosen[claim][request]];
        for (constraint, held) in want.constraints().iter().zip(&mut self.attributes[claim]) {
            if asked.is_among(constraint.requests.as_ref()) {
                held.pop();
            }
        }
        match pick.share {
            Some(share) => {
                let (count, held) = &mut self.shares[place];
                *count -= 1;
                share.iter().for_each(|(name, amount)| add(held, name, *amount, -1));
            }
            None => drop(self.holders[place].pop()),
        }
        if self.draws(place) {
            draw(&mut self.drawn[site.candidates[place].pool], site.candidates[place].device, -1);
        }
    }

    /// Notes the device with all constraints of its claim, unless one forbids it.
    fn constrain(&mut self, claim: usize, want: &Want, asked: &Request, candidate: &Candidate<'a>) -> bool {
        for (number, constraint) in want.constraints().iter().enumerate() {
            if !asked.is_among(constraint.requests.as_ref()) {
                continue;
            }
            let (name, distinct) = match (&constraint.match_attribute, &constraint.distinct_attribute) {
                (Some(name), _) => (Some(name), false),
                (None, name) => (name.as_ref(), true),
            };
            let attribute = name.and_then(|name| attribute(candidate.device, candidate.slice.driver(), name));
            let held = &self.attributes[claim][number];
            let fits = attribute.is_some_and(|attribute| match distinct {
                true => held.iter().all(|other| is_single(attribute) && *other != attribute),
                false => held.first().is_none_or(|first| is_single(attribute) && *first == attribute),
            });
            match attribute.filter(|_| fits) {
                Some(attribute) => self.attributes[claim][number].push(attribute),
                None => {
                    for (constraint, held) in want.constraints().iter().zip(&mut self.attributes[claim]).take(number) {
                        if asked.is_among(constraint.requests.as_ref()) {
                            held.pop();
                        }
                    }
                    return false;
                }
            }
        }
        true
    }
}

fn is_tainted(device: &Device, request: &Request) -> bool {
    let taints = device.taints.iter().flatten();
    let mut keeps_off = taints.filter(|taint| matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute"));
    keeps_off.any(|taint| !request.tolerations.iter().any(|toleration| tolerates(toleration, taint)))
}

/// An attribute by its full name; those of the driver's own domain may go without it.
fn attribute<'a>(device: &'a Device, driver: &str, name: &str) -> Option<&'a DeviceAttribute> {
    let all = device.attributes.as_ref()?;
    let own = || name.split_once('/').filter(|(domain, _)| *domain == driver).and_then(|(_, id)| all.get(id));
    all.get(name).or_else(own)
}

fn is_single(attribute: &DeviceAttribute) -> bool {
    super::selectors::attribute(attribute).is_some()
}

/// How many devices of each of the node's pools are held, are not what the claims ask for, or are tainted.
pub fn explain(site: &Site<'_>, wants: &[&Want]) -> Option<String> {
    let requests = wants.iter().flat_map(|want| want.requests.iter().flatten());
    let each = requests.map(|request| {
        let (mut fit, mut held, mut tainted) = (0, 0, 0);
        for candidate in &site.candidates {
            let mut selectors = request.selectors.iter();
            if !selectors.all(|(selector, ..)| selector.selects(candidate.slice, candidate.place) == Ok(true)) {
                continue;
            }
            fit += 1;
            held += usize::from(candidate.taken.is_some_and(|taken| taken.dedicated > 0));
            tainted += usize::from(is_tainted(candidate.device, request));
        }
        let count = request.count.map_or_else(|| "all".to_owned(), |count| count.to_string());
        let all = site.candidates.len();
        format!("{} asks for {count}: {fit} of {all} devices fit, {held} taken, {tainted} tainted", request.full_name())
    });
    Some(each.collect::<Vec<_>>().join("; ")).filter(|text| !text.is_empty())
}
