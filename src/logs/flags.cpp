#include "logs/training_log.hpp"

namespace reshard::logs {
namespace {

/// The words of a command line as a shell cuts it: quotes and backslashes, no variables.
std::vector<std::string> words_of(std::string_view command) {
  std::vector<std::string> words;
  std::string word;
  bool has_word = false;
  char quote = 0;
  for (std::size_t i = 0; i < command.size(); ++i) {
    const char c = command[i];
    const bool escapes = c == '\\' && quote != '\'' && i + 1 < command.size();
    if (escapes) {
      word += command[++i];
      has_word = true;
    } else if (quote != 0 && c == quote) {
      quote = 0;
    } else if (quote == 0 && (c == '"' || c == '\'')) {
      quote = c;
      has_word = true;
    } else if (quote == 0 && (c == ' ' || c == '\t')) {
      if (has_word) words.push_back(std::move(word));
      word.clear();
      has_word = false;
    } else {
      word += c;
      has_word = true;
    }
  }
  if (has_word) words.push_back(std::move(word));
  return words;
}

/// "-1e-5" is a value, "--bf16" is none.
bool is_flag(const std::string& word) {
  return word.size() > 2 && word.starts_with("--");
}

}  // namespace

std::map<std::string, std::vector<std::string>> flags_of(std::string_view command) {
  std::map<std::string, std::vector<std::string>> flags;
  std::vector<std::string>* values = nullptr;
  for (std::string& word : words_of(command)) {
    if (!is_flag(word)) {
      if (values != nullptr) values->push_back(std::move(word));
      continue;
    }
    const std::size_t equal = word.find('=');
    values = &flags[word.substr(2, equal == std::string::npos ? equal : equal - 2)];
    values->clear();
    if (equal != std::string::npos) values->push_back(word.substr(equal + 1));
  }
  return flags;
}

}  // namespace reshard::logs
