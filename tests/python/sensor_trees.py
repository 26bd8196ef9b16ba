"""Recorded trees of sysfs, as machines with each kind of sensor show them."""

from __future__ import annotations

PMIC = """\
 3V7_WL_SW_A current(0)=0.12199130A
   3V3_SYS_A current(1)=0.15224510A
   1V8_SYS_A current(2)=0.17273960A
  DDR_VDD2_A current(3)=0.11613570A
  DDR_VDDQ_A current(4)=0.02941200A
   1V1_SYS_A current(5)=0.21763240A
    0V8_SW_A current(6)=0.50748360A
  VDD_CORE_A current(7)=1.54489000A
   3V3_DAC_A current(17)=0.00000000A
   3V3_ADC_A current(18)=0.00018315A
   0V8_AON_A current(16)=0.00390720A
      HDMI_A current(22)=0.01709400A
 3V7_WL_SW_V volt(8)=3.60605200V
   3V3_SYS_V volt(9)=3.31931300V
   1V8_SYS_V volt(10)=1.79682400V
  DDR_VDD2_V volt(11)=1.10842400V
  DDR_VDDQ_V volt(12)=0.60549390V
   1V1_SYS_V volt(13)=1.10219700V
    0V8_SW_V volt(14)=0.80146440V
  VDD_CORE_V volt(15)=0.88725180V
   3V3_DAC_V volt(20)=3.31501500V
   3V3_ADC_V volt(21)=3.31684600V
   0V8_AON_V volt(19)=0.79882700V
      HDMI_V volt(23)=4.90440000V
     EXT5V_V volt(24)=4.87894000V
      BATT_V volt(25)=2.50512600V
"""
# Its twelve rails, by hand: 0.4399 + 0.5053 + 0.3104 + 0.1287 + 0.0178 + 0.2399 + 0.4067 + 1.3707 + 0 + 0.0006 + 0.0031
# + 0.0838
PMIC_WATTS = 3.5070

PI5 = {"proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0"}

_ZONE = "sys/class/powercap/intel-rapl"


def rapl(packages: int = 1) -> dict[str, str]:
    """An Intel desktop's or server's zones; counters at 1 J."""
    tree = {"proc/cpuinfo": "processor\t: 0\nflags\t\t: fpu vme avx2\n"}
    for i in range(packages):
        for zone, name in ((f"{i}", f"package-{i}"), (f"{i}:0", "core"), (f"{i}:1", "uncore"), (f"{i}:2", "dram")):
            tree |= {
                f"{_ZONE}:{zone}/name": f"{name}\n",
                f"{_ZONE}:{zone}/energy_uj": "1000000\n",
                f"{_ZONE}:{zone}/max_energy_range_uj": "262143328850\n",
            }
    tree |= {f"{_ZONE}:{packages}/name": "psys\n", f"{_ZONE}:{packages}/energy_uj": "5000000\n"}
    tree[f"{_ZONE}:{packages}/max_energy_range_uj"] = "262143328850\n"
    return tree


def zone(name: str) -> str:
    """The counter of a zone, as "0" or "0:2"."""
    return f"{_ZONE}:{name}/energy_uj"


INA226 = {
    "sys/class/hwmon/hwmon0/name": "cpu_thermal\n",
    "sys/class/hwmon/hwmon0/temp1_input": "51000\n",
    "sys/class/hwmon/hwmon2/name": "ina226\n",
    "sys/class/hwmon/hwmon2/in0_input": "4\n",
    "sys/class/hwmon/hwmon2/in1_input": "5102\n",
    "sys/class/hwmon/hwmon2/curr1_input": "812\n",
    "sys/class/hwmon/hwmon2/power1_input": "4150000\n",
    "sys/class/hwmon/hwmon2/shunt_resistor": "10000\n",
    "sys/class/hwmon/hwmon2/update_interval": "35\n",
}

# A Jetson's: the board's input, and two rails made from it. Inputs from 4 on are voltages of shunts, current 4 a sum.
INA3221 = {
    "sys/class/hwmon/hwmon1/name": "ina3221\n",
    **{
        f"sys/class/hwmon/hwmon1/{name}": f"{value}\n"
        for channel, label, volts, amperes in (
            (1, "VDD_IN", 5064, 1160),
            (2, "VDD_CPU_GPU_CV", 5056, 320),
            (3, "VDD_SOC", 5056, 288),
        )
        for name, value in (
            (f"in{channel}_label", label),
            (f"in{channel}_enable", 1),
            (f"in{channel}_input", volts),
            (f"curr{channel}_input", amperes),
            (f"in{channel + 3}_input", 6),
        )
    },
    "sys/class/hwmon/hwmon1/curr4_input": "1768\n",
    "sys/class/hwmon/hwmon1/in7_input": "18\n",
}

_BAT = "sys/class/power_supply/BAT0"
_BATTERY = {
    "sys/class/power_supply/AC/type": "Mains\n",
    "sys/class/power_supply/AC/online": "0\n",
    "sys/class/power_supply/hidpp_battery_0/type": "Battery\n",
    "sys/class/power_supply/hidpp_battery_0/scope": "Device\n",
    "sys/class/power_supply/hidpp_battery_0/status": "Discharging\n",
    f"{_BAT}/type": "Battery\n",
    f"{_BAT}/status": "Discharging\n",
    f"{_BAT}/voltage_now": "11800000\n",
}
BATTERY_POWER = {**_BATTERY, f"{_BAT}/power_now": "7830000\n", f"{_BAT}/energy_now": "31000000\n"}
BATTERY_CURRENT = {**_BATTERY, f"{_BAT}/current_now": "-650000\n", f"{_BAT}/charge_now": "2600000\n"}
BATTERY_ENERGY = {**_BATTERY, f"{_BAT}/energy_now": "31000000\n"}
BATTERY_CHARGE = {**_BATTERY, f"{_BAT}/charge_now": "2600000\n"}


def write(root, tree):
    """Files below ``root``, by path."""
    for path, text in tree.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
