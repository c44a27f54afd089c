"""What can go wrong, each rule once: functions that yield findings. Commands raise the first error, the doctor prints all."""
