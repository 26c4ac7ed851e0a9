//! Which device a model runs on, and how its weights lie there.

use candle_core::Device;
use serde::{Deserialize, Serialize};

use crate::model::ModelError;
use crate::model::product::Holding;

/// A device as the user names it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum DeviceChoice {
    /// The best device this program was built for.
    #[default]
    Auto,
    /// The processor.
    Cpu,
}

impl DeviceChoice {
    /// Open the device.
    ///
    /// # Errors
    /// It is not there.
    pub fn open(self) -> Result<Device, ModelError> {
        match self {
            Self::Auto | Self::Cpu => Ok(Device::Cpu),
        }
    }
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
