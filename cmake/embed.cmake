# reshard_embed(TARGET FOLDER): compiles every FOLDER/**/*.json into TARGET as
# reshard::families::embedded_files(), pairs of path below FOLDER and content.
function(reshard_embed target folder)
  file(GLOB_RECURSE files CONFIGURE_DEPENDS RELATIVE ${folder} ${folder}/*.json)
  set(generated ${CMAKE_CURRENT_BINARY_DIR}/${target}_embedded.cpp)
  list(TRANSFORM files PREPEND ${folder}/ OUTPUT_VARIABLE inputs)
  add_custom_command(
    OUTPUT ${generated}
    COMMAND ${CMAKE_COMMAND} -DFOLDER=${folder} -DOUTPUT=${generated}
            -P ${PROJECT_SOURCE_DIR}/cmake/embed_files.cmake
    DEPENDS ${inputs} ${PROJECT_SOURCE_DIR}/cmake/embed_files.cmake VERBATIM)
  target_sources(${target} PRIVATE ${generated})
endfunction()

# reshard_embed_script(TARGET FILE): compiles FILE into TARGET as reshard::submit::embedded_script().
function(reshard_embed_script target file)
  set(generated ${CMAKE_CURRENT_BINARY_DIR}/${target}_script.cpp)
  add_custom_command(
    OUTPUT ${generated}
    COMMAND ${CMAKE_COMMAND} -DFILE=${file} -DOUTPUT=${generated}
            -P ${PROJECT_SOURCE_DIR}/cmake/embed_script.cmake
    DEPENDS ${file} ${PROJECT_SOURCE_DIR}/cmake/embed_script.cmake VERBATIM)
  target_sources(${target} PRIVATE ${generated})
endfunction()
