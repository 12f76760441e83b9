//! Which requests share a forward pass. Pure: lengths in, counts out.

/// How many sequences of each job go into the next forward pass of at most `budget` tokens. `jobs`
/// has the lengths that each still has to do, the job that has waited longest first.
///
/// That one gets half of the pass at least, so it always gets on; the rest goes to those that are
/// nearest to being done. A small job behind a large one so waits for one pass, and equal ones end
/// one after the other instead of all at the last moment.
pub fn share(jobs: &[&[usize]], budget: usize) -> Vec<usize> {
    let mut taken = vec![0; jobs.len()];
    let mut tokens = 0;
    let mut take = |job: usize, budget: usize| {
        while let Some(&length) = jobs[job].get(taken[job])
            && (tokens == 0 || tokens + length <= budget)
        {
            tokens += length;
            taken[job] += 1;
        }
    };
    if jobs.is_empty() {
        return taken;
    }
    take(0, budget / 2);
    let mut others: Vec<usize> = (1..jobs.len()).collect();
    others.sort_by_key(|&job| jobs[job].iter().sum::<usize>());
    for job in others {
        take(job, budget);
    }
    take(0, budget);
    taken
}

/// Tokens that are computed until a new job of `own` tokens is done, its own included, where no
/// other comes. `jobs` has what each that is there still has to do. The policy is [`share`]'s: what
/// is no larger than the new job goes before it, and of the larger ones whichever is the oldest
/// takes half of each pass. One that is larger by a quarter at most counts as no larger: what of it
/// fits into passes beside the new job may make it the smaller one on the way.
pub fn tokens_ahead(own: usize, jobs: &[usize], budget: usize) -> usize {
    let (smaller, larger): (Vec<usize>, Vec<usize>) =
        jobs.iter().partition(|&&job| job <= own + own / 4);
    let before = own + smaller.iter().sum::<usize>();
    let larger: usize = larger.iter().sum();
    // The pass that is under way is not shared any more.
    let under_way = if jobs.is_empty() { 0 } else { budget };
    (before + before.min(larger) + under_way).min(before + larger)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_small_job_joins_the_next_pass_and_the_oldest_always_gets_on() {
        let (large, small) = ([10; 50], [10]);
        assert_eq!(share(&[&large, &small], 100), [9, 1]);
        assert_eq!(share(&[&large, &large, &small], 100), [5, 4, 1]);
        // One that exceeds the budget runs alone.
        assert_eq!(share(&[&[500], &small], 100), [1, 0]);
        assert_eq!(share(&[&large], 100), [10]);
        assert!(share(&[], 100).is_empty());
    }

    proptest! {
        #[test]
        fn a_job_is_done_about_when_it_was_said(
            jobs in prop::collection::vec(prop::collection::vec(1usize..60, 1..40), 0..12),
            own in prop::collection::vec(1usize..60, 1..40),
        ) {
            const BUDGET: usize = 120;
            let sum = |job: &Vec<usize>| job.iter().sum::<usize>();
            let said = tokens_ahead(sum(&own), &jobs.iter().map(sum).collect::<Vec<_>>(), BUDGET);
            let mut left: Vec<(bool, Vec<usize>)> = jobs.into_iter().map(|job| (false, job)).collect();
            left.push((true, own));
            let mut computed = 0;
            while left.iter().any(|(new, _)| *new) {
                let lengths: Vec<&[usize]> = left.iter().map(|(_, job)| job.as_slice()).collect();
                let taken = share(&lengths, BUDGET);
                for ((_, job), n) in left.iter_mut().zip(taken) {
                    computed += job.drain(..n).sum::<usize>();
                }
                left.retain(|(_, job)| !job.is_empty());
            }
            // Passes are not filled to the last token, and what is next to last in them may be
            // anyone's.
            prop_assert!(computed <= said + said / 2 + 2 * BUDGET, "{} computed, {} said", computed, said);
        }

        #[test]
        fn every_job_ends_and_no_pass_exceeds_the_budget(
            mut jobs in prop::collection::vec(prop::collection::vec(1usize..600, 1..20), 1..12), budget in 16usize..2000,
        ) {
            while !jobs.is_empty() {
                let lengths: Vec<&[usize]> = jobs.iter().map(Vec::as_slice).collect();
                let taken = share(&lengths, budget);
                prop_assert!(taken[0] > 0, "the oldest waits");
                let tokens: usize = jobs.iter().zip(&taken).flat_map(|(job, &n)| &job[..n]).sum();
                prop_assert!(tokens <= budget || taken.iter().sum::<usize>() == 1);
                for (job, n) in jobs.iter_mut().zip(taken) {
                    job.drain(..n);
                }
                jobs.retain(|job| !job.is_empty());
            }
        }
    }
}
