"""What this machine has: cores, instructions, a GPU, a place for what is made for it."""

from tabrt.hardware.cache import cache_folder
from tabrt.hardware.cpu import available_threads, cpu_name, int8_instructions
from tabrt.hardware.gpu import Gpu, has_cuda, look_for_gpu

__all__ = ["Gpu", "available_threads", "cache_folder", "cpu_name", "has_cuda", "int8_instructions", "look_for_gpu"]
