# reshard_aten: ATen's headers and the two libraries they need, from Debian's libtorch-dev or from
# the folder that CMAKE_PREFIX_PATH names (the pip wheel: torch/share/cmake). TorchConfig.cmake is
# not used: it wants every optional dependency of libtorch at configure time.
find_path(RESHARD_ATEN_INCLUDE ATen/ATen.h HINTS ${CMAKE_PREFIX_PATH}
          PATH_SUFFIXES include ../../include)
find_library(RESHARD_TORCH_CPU torch_cpu HINTS ${CMAKE_PREFIX_PATH} PATH_SUFFIXES lib ../../lib)
find_library(RESHARD_C10 c10 HINTS ${CMAKE_PREFIX_PATH} PATH_SUFFIXES lib ../../lib)
if(NOT RESHARD_ATEN_INCLUDE OR NOT RESHARD_TORCH_CPU OR NOT RESHARD_C10)
  message(FATAL_ERROR "libtorch not found: install libtorch-dev, or set CMAKE_PREFIX_PATH to the "
                      "output of: python3 -c 'import torch; print(torch.utils.cmake_prefix_path)'")
endif()
get_filename_component(RESHARD_TORCH_LIBDIR ${RESHARD_TORCH_CPU} DIRECTORY)
message(STATUS "libtorch: ${RESHARD_TORCH_CPU}")

add_library(reshard_aten INTERFACE)
target_include_directories(reshard_aten SYSTEM INTERFACE ${RESHARD_ATEN_INCLUDE})
target_link_libraries(reshard_aten INTERFACE ${RESHARD_TORCH_CPU} ${RESHARD_C10})
