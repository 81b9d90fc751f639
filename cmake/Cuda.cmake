# The CUDA kernels, where there is an nvcc that compiles them.
#
#   PYPHASE_CUDA=AUTO  build them if nvcc is found and works; else say why not, and go on
#   PYPHASE_CUDA=ON    an nvcc that does not work is an error
#   PYPHASE_CUDA=OFF   no word about CUDA
#
# An environment variable of that name counts where no option is given, for pip. Architectures: the
# GPUs of this machine, or CMAKE_CUDA_ARCHITECTURES (CUDAARCHS) as given: native, all, or numbers,
# each alone or with -real (machine code) or -virtual (PTX). Without a GPU, machine code for sm_80,
# which all of 8.x run, and PTX, which the driver compiles for newer GPUs at first use. The kernels
# ask for nothing beyond compute_80: all machine code is made of that one PTX, so that the text
# which the tests execute is the one that every GPU gets.
set(default AUTO)
if(DEFINED ENV{PYPHASE_CUDA} AND NOT "$ENV{PYPHASE_CUDA}" STREQUAL "")
  set(default $ENV{PYPHASE_CUDA})
endif()
set(PYPHASE_CUDA ${default} CACHE STRING "Build the CUDA kernels: AUTO, ON or OFF")
set_property(CACHE PYPHASE_CUDA PROPERTY STRINGS AUTO ON OFF)
string(TOUPPER "${PYPHASE_CUDA}" cuda)
if(NOT cuda MATCHES "^(AUTO|ON|OFF)$")
  message(FATAL_ERROR "PYPHASE_CUDA (=${PYPHASE_CUDA}) must be AUTO, ON or OFF")
endif()

function(cuda_is_missing why)
  if(cuda STREQUAL ON)
    message(FATAL_ERROR "PYPHASE_CUDA=ON, but ${why}")
  endif()
  message(STATUS "CUDA kernels: no, since ${why}")
endfunction()

# Set `codes` to the machine code and the PTX that are wanted, or `why_not`; `detected`: for the GPUs
# that are here.
macro(choose_cuda_architectures)
  set(detected FALSE)
  set(why_not)
  set(chosen ${CMAKE_CUDA_ARCHITECTURES})
  if(NOT chosen)
    set(chosen $ENV{CUDAARCHS})
  endif()
  if("${chosen}" MATCHES "^all(-major)?$")
    set(chosen 80-real 90-real 100-real 120)
  elseif(NOT chosen OR chosen STREQUAL native)
    set(capabilities)
    find_program(NVIDIA_SMI nvidia-smi)
    if(NVIDIA_SMI)
      execute_process(COMMAND ${NVIDIA_SMI} --query-gpu=compute_cap --format=csv,noheader
        OUTPUT_VARIABLE capabilities ERROR_QUIET RESULT_VARIABLE failed TIMEOUT 60)
      string(REGEX MATCHALL "[0-9]+\\.[0-9]" capabilities "${capabilities}")
      string(REPLACE "." "" capabilities "${capabilities}")
      list(REMOVE_DUPLICATES capabilities)
      list(FILTER capabilities INCLUDE REGEX "^([89].|...)$")  # older ones are torch's
    endif()
    if(capabilities AND NOT failed)
      list(TRANSFORM capabilities APPEND -real OUTPUT_VARIABLE chosen)
      set(detected TRUE)
    else()
      set(chosen 80)
    endif()
  endif()
  set(codes)
  foreach(architecture ${chosen})
    if(NOT architecture MATCHES "^([0-9]+)[af]?(-real|-virtual)?$")
      set(why_not "the CUDA architecture (=${architecture}) must be native or all, for the whole \
list, or a number such as 90, 90-real or 90-virtual")
    elseif(CMAKE_MATCH_1 LESS 80)
      message(STATUS "CUDA kernels: not for ${architecture}, since they need 80 or newer")
    else()
      if(NOT CMAKE_MATCH_2 STREQUAL "-virtual")
        list(APPEND codes sm_${CMAKE_MATCH_1})
      endif()
      if(NOT CMAKE_MATCH_2 STREQUAL "-real")
        list(APPEND codes compute_80)
      endif()
    endif()
  endforeach()
  list(REMOVE_DUPLICATES codes)
  if(NOT codes AND NOT why_not)
    set(why_not "no architecture is left")
  endif()
  set(CMAKE_CUDA_ARCHITECTURES 80)  # of CMake's own checks
  unset(ENV{CUDAARCHS})             # which CMake would put above it
endmacro()

# Set PYPHASE_HAS_CUDA to whether nvcc makes `codes`, and `code` to its option. What is too old for
# the kernels, or for an architecture, is found now, not in the build.
macro(probe_nvcc)
  string(REPLACE ";" "," code "${codes}")
  set(code -gencode=arch=compute_80,code=[${code}])
  try_compile(PYPHASE_HAS_CUDA ${CMAKE_CURRENT_BINARY_DIR}/probe
    SOURCES ${CMAKE_CURRENT_SOURCE_DIR}/cmake/probe.cu
    COMPILE_DEFINITIONS -std=c++20 ${code} OUTPUT_VARIABLE said)
endmacro()

set(PYPHASE_HAS_CUDA FALSE)
if(NOT cuda STREQUAL OFF)
  choose_cuda_architectures()
  include(CheckLanguage)
  if(NOT why_not)
    check_language(CUDA)
  endif()
  if(why_not)
    cuda_is_missing("${why_not}")
  elseif(NOT CMAKE_CUDA_COMPILER)
    cuda_is_missing("there is no nvcc that compiles a program")
  else()
    enable_language(CUDA)
    foreach(kind STANDARD EXTENSION)  # CMake before 3.26 does not know that nvcc has C++20
      if(NOT CMAKE_CUDA20_${kind}_COMPILE_OPTION)
        set(CMAKE_CUDA20_${kind}_COMPILE_OPTION -std=c++20)
      endif()
    endforeach()
    probe_nvcc()
    if(NOT PYPHASE_HAS_CUDA AND detected)  # a GPU newer than this nvcc: its driver compiles PTX
      set(codes compute_80)
      probe_nvcc()
    endif()
    if(PYPHASE_HAS_CUDA)
      string(REPLACE ";" ", " shown "${codes}")
      message(STATUS
        "CUDA kernels: yes, nvcc ${CMAKE_CUDA_COMPILER_VERSION}, architectures ${shown}")
    else()
      file(WRITE ${CMAKE_CURRENT_BINARY_DIR}/probe.log "${said}")
      cuda_is_missing("nvcc ${CMAKE_CUDA_COMPILER_VERSION} does not compile cmake/probe.cu (see \
${CMAKE_CURRENT_BINARY_DIR}/probe.log)")
    endif()
  endif()
endif()

if(PYPHASE_HAS_CUDA)
  set(cuda_warnings -Xcompiler=-Wall,-Wextra)
  if(PYPHASE_WERROR)
    list(APPEND cuda_warnings --Werror=all-warnings)
  endif()
  add_library(cuda_kernels OBJECT  # what takes longest first
    csrc/conv/cuda/depthwise_bfloat16.cu
    csrc/conv/cuda/depthwise_float.cu
    csrc/conv/cuda/depthwise_half.cu
    csrc/conv/cuda/dense_float.cu
    csrc/conv/cuda/dense_bfloat16.cu
    csrc/conv/cuda/dense_half.cu
    csrc/conv/cuda/device.cu)
  target_compile_options(cuda_kernels PRIVATE -O3 ${code} ${cuda_warnings})
  set_target_properties(cuda_kernels PROPERTIES CUDA_ARCHITECTURES OFF
    POSITION_INDEPENDENT_CODE ON CUDA_STANDARD 20 CUDA_VISIBILITY_PRESET hidden
    CUDA_RUNTIME_LIBRARY Static)

  pybind11_add_module(_cuda NO_EXTRAS
    csrc/bindings/cuda.cpp
    csrc/conv/problem.cpp
    csrc/conv/cuda/clock_rates.cpp
    csrc/conv/cuda/dense.cpp
    csrc/conv/cuda/dense_plan.cpp
    csrc/conv/cuda/dense_tiles.cpp
    csrc/conv/cuda/depthwise.cpp
    csrc/conv/cuda/depthwise_march_plan.cpp
    csrc/conv/cuda/depthwise_plan.cpp
    csrc/conv/cuda/plan.cpp
    csrc/conv/cuda/run.cpp
    $<TARGET_OBJECTS:cuda_kernels>)
  target_compile_features(_cuda PRIVATE cxx_std_20)
  target_compile_options(_cuda PRIVATE -O3 ${warnings})
  target_compile_definitions(_cuda PRIVATE PYPHASE_CUDA_MODULE=_cuda
    PYPHASE_CUDA_ARCHITECTURES="${shown}"
    PYPHASE_CUDA_COMPILER="nvcc ${CMAKE_CUDA_COMPILER_VERSION}")
  set_target_properties(_cuda PROPERTIES LINKER_LANGUAGE CXX CUDA_RUNTIME_LIBRARY None)
  find_package(CUDAToolkit REQUIRED)
  target_link_libraries(_cuda PRIVATE CUDA::cudart_static)
  install(TARGETS _cuda DESTINATION pyphase)
endif()
