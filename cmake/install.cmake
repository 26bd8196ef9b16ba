# What `cmake --install` gives C and C++ programs: the static and the shared library, the header, and the files by which
# find_package(edgekern) and pkg-config find them. Components: `runtime`, all that a device needs to run programs linked
# with the shared library, and `devel`, the rest.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

# The static library's objects once more: nothing is compiled twice.
add_library(edgekern_shared SHARED $<TARGET_OBJECTS:edgekern>)
# Before 1.0 a minor version may change the interface (CHANGELOG.md), so it is part of the SONAME.
set_target_properties(edgekern_shared PROPERTIES
  OUTPUT_NAME edgekern
  LINKER_LANGUAGE CXX
  VERSION ${PROJECT_VERSION}
  SOVERSION ${PROJECT_VERSION_MAJOR}.${PROJECT_VERSION_MINOR})
target_link_libraries(edgekern_shared PRIVATE Threads::Threads)
# Hidden visibility is not enough: instances of the standard library's templates are visible by its own wish.
if(APPLE)
  target_link_options(edgekern_shared PRIVATE "LINKER:-exported_symbol,_ek_*")
else()
  set(symbols "${CMAKE_CURRENT_LIST_DIR}/exported_symbols.map")
  target_link_options(edgekern_shared PRIVATE "LINKER:--version-script=${symbols}")
  set_target_properties(edgekern_shared PROPERTIES LINK_DEPENDS "${symbols}")
endif()

set_target_properties(edgekern PROPERTIES EXPORT_NAME static)
set_target_properties(edgekern_shared PROPERTIES EXPORT_NAME shared)
install(TARGETS edgekern edgekern_shared EXPORT edgekern-targets
  INCLUDES DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}
  LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT runtime NAMELINK_COMPONENT devel
  ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT devel)
install(DIRECTORY csrc/include/ DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} COMPONENT devel)

set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/edgekern)
install(EXPORT edgekern-targets NAMESPACE edgekern:: DESTINATION ${package_dir} COMPONENT devel)
write_basic_package_version_file("${PROJECT_BINARY_DIR}/package/edgekern-config-version.cmake"
  COMPATIBILITY SameMinorVersion)
install(FILES cmake/edgekern-config.cmake "${PROJECT_BINARY_DIR}/package/edgekern-config-version.cmake"
  DESTINATION ${package_dir} COMPONENT devel)

# Relative to the .pc file, so that the installed tree may be moved.
file(RELATIVE_PATH to_prefix "/${CMAKE_INSTALL_LIBDIR}/pkgconfig" "/")
configure_file(cmake/edgekern.pc.in "${PROJECT_BINARY_DIR}/package/edgekern.pc" @ONLY)
install(FILES "${PROJECT_BINARY_DIR}/package/edgekern.pc"
  DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig COMPONENT devel)
