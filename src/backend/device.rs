//! Which devices a model runs on, and how its weights lie there. The only place that knows whether this program was built
//! for NVIDIA GPUs.

use std::fmt::{Display, Formatter};
use std::str::FromStr;

use candle_core::Device;
use serde::{Deserialize, Serialize};

use crate::engine::KV_BYTES;
use crate::model::ModelError;
use crate::model::product::Holding;

/// A device as the user names it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The first GPU where this program was built for GPUs and one is there, else the processor.
    #[default]
    Auto,
    /// The processor.
    Cpu,
    /// The NVIDIA GPU of this number.
    Cuda(usize),
}

impl Display for DeviceChoice {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(ordinal) => write!(f, "cuda:{ordinal}"),
        }
    }
}

impl FromStr for DeviceChoice {
    type Err = DeviceError;

    fn from_str(text: &str) -> Result<Self, DeviceError> {
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            _ => {
                let number = text.strip_prefix("cuda:").and_then(|number| number.parse().ok());
                number.map(Self::Cuda).ok_or_else(|| DeviceError::Unknown(text.to_owned()))
            }
        }
    }
}

/// What is wrong with a list of devices.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// Not a device.
    #[error(
        "{0:?} is no device: auto, cpu, cuda and cuda:N are, and lists of cpu and cuda:N, as in cuda:0,cuda:1"
    )]
    Unknown(String),
    /// `auto` stands beside others.
    #[error("auto stands for one device, not beside others")]
    AutoInList,
    /// A GPU would hold the weights twice.
    #[error("{0} stands twice: one engine per GPU is enough")]
    Twice(DeviceChoice),
}

/// The devices of a server, at least one: an engine with the model's weights runs on each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Devices(Vec<DeviceChoice>);

impl Devices {
    /// In the order of the engines.
    pub fn iter(&self) -> impl Iterator<Item = DeviceChoice> {
        self.0.iter().copied()
    }
}

impl Default for Devices {
    fn default() -> Self {
        Self::from(DeviceChoice::Auto)
    }
}

impl From<DeviceChoice> for Devices {
    fn from(device: DeviceChoice) -> Self {
        Self(vec![device])
    }
}

impl FromStr for Devices {
    type Err = DeviceError;

    /// From names with commas between them.
    fn from_str(text: &str) -> Result<Self, DeviceError> {
        let devices = text.split(',').map(|name| name.trim().parse()).collect::<Result<Vec<_>, _>>()?;
        if devices.len() > 1 && devices.contains(&DeviceChoice::Auto) {
            return Err(DeviceError::AutoInList);
        }
        let gpus = devices.iter().enumerate().filter(|(_, device)| **device != DeviceChoice::Cpu);
        for (number, gpu) in gpus {
            if devices[..number].contains(gpu) {
                return Err(DeviceError::Twice(*gpu));
            }
        }
        Ok(Self(devices))
    }
}

impl TryFrom<String> for Devices {
    type Error = DeviceError;

    fn try_from(text: String) -> Result<Self, DeviceError> {
        text.parse()
    }
}

impl From<Devices> for String {
    fn from(devices: Devices) -> Self {
        devices.to_string()
    }
}

impl Display for Devices {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let names: Vec<String> = self.iter().map(|device| device.to_string()).collect();
        f.write_str(&names.join(","))
    }
}

impl DeviceChoice {
    /// Open the device. What `auto` came to is logged.
    ///
    /// # Errors
    /// It is not there, or this program cannot use it; says what to do.
    pub fn open(self) -> Result<Device, ModelError> {
        let failed = |reason| ModelError::Device { device: self.to_string(), reason };
        match self {
            Self::Cpu => Ok(Device::Cpu),
            Self::Cuda(ordinal) => gpu::open(ordinal).map_err(failed),
            Self::Auto if gpu::BUILT => Ok(gpu::open(0).unwrap_or_else(|reason| {
                tracing::warn!(reason, "the model runs on the CPU");
                Device::Cpu
            })),
            Self::Auto => Ok(Device::Cpu),
        }
    }
}

/// Wait until all is done that this thread asked of a device. On a GPU each thread has a stream of its own, so what one thread
/// loads is there for another thread's ticks only after this.
///
/// # Errors
/// Something of it failed.
pub fn settle(device: &Device) -> Result<(), ModelError> {
    device.synchronize().map_err(|error| gpu_failed(&error.to_string()))
}

/// Memory of a GPU for what a tick computes, in bytes: K/V that are gathered, scores, logits.
const TICK_BYTES: usize = 2 << 30;

/// K/V memory that a device may give once the weights are there, in bytes: as much as was `asked` for, on a GPU no more
/// than nine tenths of what is free beside `TICK_BYTES`.
pub fn kv_budget(device: &Device, asked: Option<usize>) -> usize {
    if device.is_cpu() {
        return asked.unwrap_or(KV_BYTES);
    }
    let room = gpu::free_bytes(device).map(|free| free.saturating_sub(TICK_BYTES) / 10 * 9);
    let room = room.unwrap_or_else(|reason| {
        tracing::error!(reason, "the GPU does not say how much memory is free");
        asked.unwrap_or(KV_BYTES)
    });
    if let Some(asked) = asked.filter(|asked| *asked > room) {
        tracing::warn!(asked, room, "the GPU has less memory for K/V than engine.kv_bytes");
    }
    asked.unwrap_or(room).min(room)
}

/// An error of loading, told so that it helps: a GPU that is full says so for each tensor in its own words.
pub fn explained(device: &Device, error: ModelError) -> ModelError {
    if !error.to_string().contains("CUDA_ERROR_OUT_OF_MEMORY") {
        return error;
    }
    let free = gpu::free_bytes(device)
        .map_or_else(|_| String::new(), |free| format!(", {} MiB are free", free >> 20));
    gpu_failed(&format!(
        "the model does not fit into the GPU's memory ({error}{free}): it takes a larger one, or another program uses this one"
    ))
}

/// A GPU cannot be used.
pub fn gpu_failed(reason: &str) -> ModelError {
    ModelError::Device { device: "cuda".to_owned(), reason: reason.to_owned() }
}

/// Where a model's weights are, and in which format.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Placement {
    /// The device.
    pub device: DeviceChoice,
    /// The format of its matrices.
    pub holding: Holding,
}

impl From<DeviceChoice> for Placement {
    /// On this device.
    fn from(device: DeviceChoice) -> Self {
        Self { device, holding: Holding::Auto }
    }
}

#[cfg(not(feature = "cuda"))]
mod gpu {
    use candle_core::Device;

    /// Whether this program can use GPUs.
    pub const BUILT: bool = false;

    const NOT_BUILT: &str =
        "this program was built without CUDA: build it with --features cuda (docs/cuda.md)";

    pub fn open(_ordinal: usize) -> Result<Device, String> {
        Err(NOT_BUILT.to_owned())
    }

    pub fn free_bytes(_device: &Device) -> Result<usize, String> {
        Err(NOT_BUILT.to_owned())
    }
}

#[cfg(feature = "cuda")]
mod gpu {
    use candle_core::cuda::cudarc::driver::sys::CUresult;
    use candle_core::cuda::cudarc::driver::{CudaContext, DriverError, result};
    use candle_core::{DType, Device, Tensor};

    /// Whether this program can use GPUs.
    pub const BUILT: bool = true;

    /// For which compute capability candle's kernels were compiled, where the build was told: `90` is 9.0.
    const BUILT_FOR: Option<&str> = option_env!("CUDA_COMPUTE_CAP");

    /// A GPU on which kernels run: one is tried.
    pub fn open(ordinal: usize) -> Result<Device, String> {
        // The driver is asked first, because candle panics without one.
        result::init().map_err(|error| no_driver(&error))?;
        let count = CudaContext::device_count().map_err(|error| no_driver(&error))?;
        if usize::try_from(count).unwrap_or(0) <= ordinal {
            return Err(format!(
                "there is no such GPU: the driver has {count}, numbered from 0 (see `nvidia-smi -L`)"
            ));
        }
        let device = Device::new_cuda(ordinal).map_err(|error| error.to_string())?;
        let context =
            device.as_cuda_device().map_err(|error| error.to_string())?.cuda_stream().context().clone();
        let (major, minor) = context.compute_capability().map_err(|error| error.to_string())?;
        let name = context.name().unwrap_or_else(|_| "a GPU".to_owned());
        let wrong = |reason: &str| {
            let built = BUILT_FOR.unwrap_or("another one");
            format!(
                "{name} has compute capability {major}.{minor}, this program was built for {built}: build it with CUDA_COMPUTE_CAP={major}{minor} ({reason})"
            )
        };
        if BUILT_FOR.is_some_and(|built| !super::runs_on(built, (major, minor))) {
            return Err(wrong("its kernels cannot run there"));
        }
        let tried =
            Tensor::ones(32, DType::F32, &device).and_then(|ones| ones.affine(2.0, 1.0)?.to_vec1::<f32>());
        match tried {
            Ok(numbers) if numbers.iter().all(|number| *number == 3.0) => {}
            Ok(_) => return Err(format!("{name} computes wrong numbers")),
            Err(error) => return Err(wrong(&error.to_string())),
        }
        tracing::info!(
            ordinal,
            name,
            compute_capability = format!("{major}.{minor}"),
            "the model runs on a GPU"
        );
        Ok(device)
    }

    pub fn free_bytes(device: &Device) -> Result<usize, String> {
        let cuda = device.as_cuda_device().map_err(|error| error.to_string())?;
        let (free, _) = cuda.cuda_stream().context().mem_get_info().map_err(|error| error.to_string())?;
        Ok(free)
    }

    fn no_driver(error: &DriverError) -> String {
        let what = match error.0 {
            CUresult::CUDA_ERROR_STUB_LIBRARY => {
                "libcuda.so.1 is a stub, not a driver: install NVIDIA's driver"
            }
            CUresult::CUDA_ERROR_NO_DEVICE => "the driver finds no GPU (CUDA_VISIBLE_DEVICES may hide them)",
            CUresult::CUDA_ERROR_SYSTEM_DRIVER_MISMATCH => {
                "NVIDIA's driver and its library do not match: restart the machine"
            }
            _ => "NVIDIA's driver does not work: see `nvidia-smi`",
        };
        format!("{what} ({:?})", error.0)
    }
}

/// Whether kernels built for a compute capability, such as `90`, run on a GPU that has (major, minor). From 90 on nvcc is
/// told to use all of that GPU's instructions, which no other has.
#[cfg(any(feature = "cuda", test))]
fn runs_on(built: &str, (major, minor): (i32, i32)) -> bool {
    let digits = built.trim_end_matches(['a', 'f']).replace('.', "");
    // What cannot be read is left to the kernel that is tried.
    let Ok(built) = digits.parse::<i32>() else { return true };
    let found = major * 10 + minor;
    if built >= 90 { found == built } else { found >= built }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_read_as_they_are_written() {
        for text in ["auto", "cpu", "cuda:0", "cuda:3,cuda:1", "cpu,cpu", "cpu,cuda:0"] {
            assert_eq!(text.parse::<Devices>().unwrap().to_string(), text);
        }
        assert_eq!("cuda".parse::<Devices>().unwrap(), "cuda:0".parse().unwrap());
        assert_eq!(" cuda:0 , cuda:1".parse::<Devices>().unwrap().iter().count(), 2);
    }

    #[test]
    fn what_is_no_device_is_named() {
        for text in ["", "gpu", "cuda:", "cuda:-1", "cuda:0,", "cuda:99999999999999999999", "CPU"] {
            let error = text.parse::<Devices>().unwrap_err();
            assert!(matches!(error, DeviceError::Unknown(_)), "{text}: {error}");
        }
        assert_eq!("cpu,auto".parse::<Devices>().unwrap_err(), DeviceError::AutoInList);
        assert_eq!(
            "cuda:1,cuda:0,cuda:1".parse::<Devices>().unwrap_err(),
            DeviceError::Twice(DeviceChoice::Cuda(1))
        );
        assert_eq!("cuda,cuda:0".parse::<Devices>().unwrap_err(), DeviceError::Twice(DeviceChoice::Cuda(0)));
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn a_program_without_cuda_says_how_to_get_one_and_auto_takes_the_processor() {
        let error = DeviceChoice::Cuda(1).open().unwrap_err().to_string();
        assert!(error.contains("cuda:1") && error.contains("--features cuda"), "{error}");
        assert!(DeviceChoice::Auto.open().unwrap().is_cpu());
    }

    #[test]
    fn kernels_run_where_their_instructions_exist() {
        assert!(runs_on("80", (8, 0)) && runs_on("80", (9, 0)) && runs_on("8.0", (8, 6)));
        assert!(!runs_on("89", (8, 0)));
        assert!(runs_on("90", (9, 0)) && runs_on("90a", (9, 0)));
        assert!(!runs_on("90", (10, 0)) && !runs_on("100", (12, 0)) && !runs_on("90", (8, 9)));
    }

    #[test]
    fn the_processor_gives_the_kv_memory_that_was_asked_for() {
        assert_eq!(kv_budget(&Device::Cpu, Some(7)), 7);
        assert_eq!(kv_budget(&Device::Cpu, None), KV_BYTES);
    }

    #[test]
    fn a_full_gpu_is_told_by_its_reason_and_other_errors_stay() {
        let full = ModelError::tensor("wte", "DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")");
        let told = explained(&Device::Cpu, full).to_string();
        assert!(told.contains("does not fit") && told.contains("wte"), "{told}");
        let other = explained(&Device::Cpu, ModelError::Config("x".to_owned()));
        assert!(matches!(other, ModelError::Config(_)));
    }
}
