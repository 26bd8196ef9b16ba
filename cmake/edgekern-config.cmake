# find_package(edgekern [version] [COMPONENTS static | shared]) defines
#
#   edgekern::static, edgekern::shared   the two libraries
#   edgekern::edgekern                   the one to link: the component asked for; without one, the shared library when
#                                        BUILD_SHARED_LIBS is on, otherwise the static one
foreach(component IN LISTS edgekern_FIND_COMPONENTS)
  if(NOT component MATCHES "^(static|shared)$")
    set(edgekern_FOUND FALSE)
    set(edgekern_NOT_FOUND_MESSAGE "edgekern has no component '${component}'; expected static or shared")
    return()
  endif()
endforeach()

include(CMakeFindDependencyMacro)
find_dependency(Threads)
include("${CMAKE_CURRENT_LIST_DIR}/edgekern-targets.cmake")

if(NOT TARGET edgekern::edgekern)
  if(edgekern_FIND_COMPONENTS)
    list(GET edgekern_FIND_COMPONENTS 0 component)
  elseif(BUILD_SHARED_LIBS)
    set(component shared)
  else()
    set(component static)
  endif()
  add_library(edgekern::edgekern INTERFACE IMPORTED)
  set_target_properties(edgekern::edgekern PROPERTIES INTERFACE_LINK_LIBRARIES edgekern::${component})
endif()
