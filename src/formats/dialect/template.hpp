#pragma once

#include <string>
#include <vector>

#include "formats/dialect/options.hpp"
#include "formats/dialect/source.hpp"

namespace reshard::formats {

/// The companions in a folder that an option names; Error(usage) when there are none, `what` it was
/// to hold.
std::vector<Companion> companions_of(const std::string& option, const std::string& folder,
                                     const std::string& what);

/// bos_token_id, eos_token_id and pad_token_id, as far as tokenizer files among the companions
/// (tokenizer_config.json or special_tokens_map.json for the tokens, tokenizer.json,
/// added_tokens.json or vocab.json for their numbers) tell them; null for one without a number.
/// Error(input) names the file.
Json special_token_ids(const std::vector<Companion>& companions);

/// Adds to the facts of a source what the user's own files say of the Hugging Face folder to be
/// written: companions of --hf-template and --tokenizer, "token_ids" for a source without
/// config.json, and as "template" the template's model_type and auto_map.
void add_template(const SourceOptions& options, Found& found);

/// The family that the options name, else that of the template; "" if neither does.
std::string wanted_family(const SourceOptions& options, const Found& found);

/// Adds to the config.json of a source that has none what the facts tell beside the family's keys.
void add_told(const Source& source, Json& config);

/// Model code that a config's auto_map names and that is not among the companions: a problem with
/// --hf-template, else a note.
void check_auto_map(const Source& source, const Json& config, std::vector<std::string>& notes,
                    Problems& problems);

}  // namespace reshard::formats
