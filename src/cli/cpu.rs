//! What the processor is, and how much of it this process may have.

use std::path::Path;

use super::cgroup::{self, Group};

/// Arm's cores that clouds have: implementer, part, and name.
const ARM: [(&str, &str, &str); 4] = [
    ("0x41", "0xd0c", "Neoverse N1"),
    ("0x41", "0xd40", "Neoverse V1"),
    ("0x41", "0xd49", "Neoverse N2"),
    ("0x41", "0xd4f", "Neoverse V2"),
];

/// The processor as its maker calls it, and the numbers that tell its generation where a hypervisor
/// has changed the name.
pub fn described() -> String {
    described_by(&cpuinfo())
}

/// The processor as its maker calls it.
pub fn name() -> String {
    name_by(&cpuinfo())
}

fn cpuinfo() -> String {
    std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default()
}

fn value<'a>(cpuinfo: &'a str, key: &str) -> Option<&'a str> {
    cpuinfo.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        (name.trim_end() == key).then(|| value.trim())
    })
}

fn name_by(cpuinfo: &str) -> String {
    if let Some(name) = value(cpuinfo, "model name") {
        return name.to_owned();
    }
    let (Some(implementer), Some(part)) = (
        value(cpuinfo, "CPU implementer"),
        value(cpuinfo, "CPU part"),
    ) else {
        return "unknown processor".into();
    };
    let known = ARM.iter().find(|(i, p, _)| (*i, *p) == (implementer, part));
    known.map_or_else(
        || format!("processor of implementer {implementer}, part {part}"),
        |(.., name)| (*name).to_owned(),
    )
}

fn described_by(cpuinfo: &str) -> String {
    let numbers = [
        ("family", "cpu family"),
        ("model", "model"),
        ("stepping", "stepping"),
    ];
    let numbers = numbers
        .into_iter()
        .filter_map(|(name, key)| Some(format!(", {name} {}", value(cpuinfo, key)?)));
    format!(
        "{} ({}{})",
        name_by(cpuinfo),
        std::env::consts::ARCH,
        numbers.collect::<String>()
    )
}

/// Processors' worth of time that the control groups allow; nothing where they set no limit.
pub fn quota() -> Option<f64> {
    let read = |path: &Path| std::fs::read_to_string(path).ok();
    lowest_quota(&cgroup::own(), Path::new(cgroup::ROOT), read)
}

fn lowest_quota(list: &str, root: &Path, read: impl Fn(&Path) -> Option<String>) -> Option<f64> {
    let number = |text: &str| text.trim().parse::<f64>().ok();
    let quotas = cgroup::groups(list, root, "cpu").into_iter();
    quotas
        .filter_map(|group| {
            let (quota, period) = match group {
                Group::V2(folder) => {
                    let text = read(&folder.join("cpu.max"))?;
                    // `max` is no number.
                    let (quota, period) = text.trim().split_once(' ')?;
                    (number(quota)?, number(period)?)
                }
                Group::V1(folder) => {
                    let quota = number(&read(&folder.join("cpu.cfs_quota_us"))?)?;
                    (quota, number(&read(&folder.join("cpu.cfs_period_us"))?)?)
                }
            };
            // Version 1 writes -1 where there is none.
            (quota > 0.0 && period > 0.0).then_some(quota / period)
        })
        .min_by(f64::total_cmp)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_processor_is_named_on_every_architecture() {
        let intel = "processor\t: 0\ncpu family\t: 6\nmodel\t\t: 207\nmodel name\t: Intel(R) Xeon(R) Processor\nstepping\t: 2\n";
        let arch = std::env::consts::ARCH;
        let cases = [
            (
                intel,
                "Intel(R) Xeon(R) Processor",
                ", family 6, model 207, stepping 2",
            ),
            (
                "CPU implementer\t: 0x41\nCPU part\t: 0xd0c\n",
                "Neoverse N1",
                "",
            ),
            (
                "CPU implementer\t: 0x51\nCPU part\t: 0x001\n",
                "processor of implementer 0x51, part 0x001",
                "",
            ),
            ("", "unknown processor", ""),
        ];
        for (cpuinfo, name, numbers) in cases {
            assert_eq!(name_by(cpuinfo), name);
            assert_eq!(described_by(cpuinfo), format!("{name} ({arch}{numbers})"));
        }
    }

    #[test]
    fn the_lowest_quota_on_the_way_up_holds_in_either_version() {
        let files = [
            ("/c/cpu.max", "max 100000\n"),
            ("/c/pod/cpu.max", "150000 100000\n"),
            ("/c/pod/app/cpu.max", "200000 100000\n"),
            ("/c/cpu/job/cpu.cfs_quota_us", "50000\n"),
            ("/c/cpu/job/cpu.cfs_period_us", "100000\n"),
            ("/c/cpu/free/cpu.cfs_quota_us", "-1\n"),
            ("/c/cpu/free/cpu.cfs_period_us", "100000\n"),
        ];
        let read = |path: &Path| {
            let found = files.iter().find(|(file, _)| Path::new(file) == path);
            found.map(|(_, text)| (*text).to_owned())
        };
        let cases = [
            ("0::/pod/app\n", Some(1.5)),
            ("0::/\n", None),
            ("4:cpu,cpuacct:/job\n", Some(0.5)),
            ("4:cpu,cpuacct:/free\n0::/pod\n", Some(1.5)),
            ("4:memory:/job\n", None),
            ("", None),
        ];
        for (list, quota) in cases {
            assert_eq!(lowest_quota(list, Path::new("/c"), read), quota, "{list}");
        }
    }
}
