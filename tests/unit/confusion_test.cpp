#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <functional>
#include <iostream>
#include <set>

#include "core/error.hpp"
#include "formats/dialect/dialect.hpp"
#include "formats/file.hpp"

// Checkpoints whose configuration and arguments have the wrong type or an absurd value, one after
// the other: each is opened, or refused with an Error of the kind input, and so is what would be
// written of it.

namespace reshard::formats {
namespace {

namespace fs = std::filesystem;

/// One of how many values is tried: RESHARD_CONFUSION_STEP, 1 for all in half an hour.
std::size_t step() {
#ifdef __SANITIZE_ADDRESS__
  constexpr std::size_t usual = 1999;  // for one takes ten times as long
#else
  constexpr std::size_t usual = 211;
#endif
  const char* wanted = std::getenv("RESHARD_CONFUSION_STEP");
  return wanted != nullptr ? std::stoul(wanted) : usual;
}

const std::vector<Json>& wrong_values() {
  static const std::vector<Json> values = {nullptr,
                                           true,
                                           false,
                                           0,
                                           -1,
                                           1,
                                           0.5,
                                           -1e300,
                                           1e300,
                                           1000000000,
                                           std::int64_t{1} << 32,
                                           INT64_MAX,
                                           INT64_MIN,
                                           UINT64_MAX,
                                           "",
                                           "1",
                                           "\x1b[2J\n",
                                           std::string(100'000, 'x'),
                                           Json::array(),
                                           Json::array({1}),
                                           Json::array({Json::array({nullptr})}),
                                           Json::array({-1, "x", Json::object()}),
                                           Json::object(),
                                           {{"a", 1}},
                                           {{"!", "tuple"}, {"items", {nullptr, -1}}},
                                           {{"!", "object"}, {"class", "a.B"}, {"args", {-1}}},
                                           {{"!", "global"}, {"name", "torch.bfloat16"}},
                                           {{"!", "float"}, {"value", "nan"}},
                                           {{"!", "int"}, {"value", "-99999999999999999999"}},
                                           {{"!", "bytes"}, {"size", 1 << 20}},
                                           {{"!", "tensor"}, {"dtype", "F32"}, {"shape", {2}}}};
  return values;
}

/// The places of all values in an object, below other objects too; not in what stands for a value
/// of a pickle (pickle.hpp), which always has its form.
void add_places(const Json& value, const Json::json_pointer& at,
                std::vector<Json::json_pointer>& places) {
  if (!value.is_object() || value.contains("!")) return;
  for (const auto& [key, member] : value.items()) {
    places.push_back(at / key);
    add_places(member, at / key, places);
  }
}

/// A checkpoint of the test data, and the configuration or arguments in it.
struct Subject {
  std::string name;
  Found found;
  std::vector<FileIndex> indices;
};

Subject subject_of(const fs::path& path) {
  SourceOptions options;
  options.path = path.string();
  Subject subject{path.string(), detect(options), {}};
  for (const std::string& file : subject.found.files) {
    subject.indices.push_back(dialect_named(subject.found.dialect).index(subject.found, file));
  }
  return subject;
}

/// The config.json beside the layouts of a model.
Json config_beside(const fs::path& layout) {
  return Json::parse(
      read_text((layout.parent_path() / "hf" / "config.json").string(), std::uint64_t{1} << 20));
}

/// What would be written of a source in each format.
void describe_all(const Source& source) {
  for (const Dialect* to : dialects()) {
    Source copy = source;
    Problems problems;
    TargetOptions wish;
    wish.to = to->name();
    try {
      Target target = to->describe(copy, wish, problems);
      problems.raise();
      std::vector<FileLayout> layouts;
      for (const FileDescription& file : target.files) layouts.push_back(layout_of(file));
      make_geometry(copy, target, layouts);
    } catch (const Error& error) {
      EXPECT_TRUE(error.kind() == Kind::input || error.kind() == Kind::usage) << error.what();
    }
  }
}

/// Whether the subject, changed, is opened.
bool opens(const Subject& subject) {
  const SourceOptions options;
  Problems problems;
  try {
    const Source source = dialect_named(subject.found.dialect)
                              .open(subject.found, subject.indices, options, problems);
    problems.raise();
    describe_all(source);
    return true;
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), Kind::input) << error.what();
  }
  return false;
}

/// Puts each wrong value in each place of what `part` chooses, where a file could have it.
void confuse(const Subject& whole, const std::function<Json&(Subject&)>& part,
             const std::function<bool(const std::string&, const Json&)>& possible) {
  Subject subject = whole;
  ASSERT_TRUE(opens(subject)) << subject.name;
  const Json right = part(subject);
  std::vector<Json::json_pointer> places = {Json::json_pointer()};
  add_places(right, Json::json_pointer(), places);
  const std::size_t every = step();
  std::size_t turn = 0, opened = 0, tried = 0;
  for (const Json::json_pointer& place : places) {
    for (const Json& value : wrong_values()) {
      if (!possible(place.to_string(), value) || turn++ % every != 0) continue;
      part(subject) = right;
      part(subject)[place] = value;
      SCOPED_TRACE(subject.name + " " + place.to_string() + " " + value.dump().substr(0, 60));
      ++tried;
      try {
        if (opens(subject)) ++opened;
      } catch (const std::exception& error) {
        ADD_FAILURE() << error.what();
      }
    }
  }
  std::cout << subject.name << ": " << tried << " tried, " << opened << " opened\n";
  EXPECT_GT(tried, 0U) << subject.name;
  EXPECT_LT(opened, tried) << subject.name;
}

const fs::path data(RESHARD_TEST_DATA);

void confuse_config(const Subject& subject) {
  const auto config = [](Subject& s) -> Json& { return s.found.facts.at("config"); };
  // What is no object is refused when the file is read.
  confuse(subject, config, [](const std::string& place, const Json& value) {
    return !place.empty() || value.is_object();
  });
}

/// What a torch file says besides its tensors: args and what they hold; at the top, where not told
/// otherwise, numbers. The rest of the facts the reader of headers makes itself.
void confuse_facts(const Subject& subject, const std::function<Json&(Subject&)>& facts,
                   const std::set<std::string>& whole_values) {
  const std::set<std::string> made = {"/keys", "/content",      "/flat", "/module",
                                      "/root", "/stage_layers", "/rank"};
  confuse(subject, facts, [&](const std::string& place, const Json& value) {
    if (place.empty() || made.contains(place)) return false;
    const bool is_deep = place.find('/', 1) != std::string::npos;
    const bool is_number = value.is_primitive() && !value.is_string();
    if (place == "/args" && !whole_values.contains(place)) return value.is_object();
    return is_deep || is_number || whole_values.contains(place);
  });
}

void confuse_facts(const Subject& subject, std::size_t file,
                   const std::set<std::string>& whole_values) {
  const auto facts = [file](Subject& s) -> Json& { return s.indices[file].facts; };
  confuse_facts(subject, facts, whole_values);
}

TEST(Confusion, ConfigsOfHuggingFace) {
  for (const auto& family : fs::directory_iterator(data / "huggingface")) {
    if (family.is_directory()) confuse_config(subject_of(family.path() / "hf"));
  }
}

TEST(Confusion, FactsOfMegatron) {
  for (const char* name : {"llama-gqa/torch-tp2-pp2", "gpt2-legacy/torch-tp1-pp1",
                           "mixtral-moe/torch-tp1-pp1-ep2", "qwen3/torch-tp1-pp2-vpp2"}) {
    confuse_facts(subject_of(data / "megatron" / name), 0, {});
  }
}

TEST(Confusion, CommonStateOfMegatronDist) {
  const auto common = [](Subject& s) -> Json& { return s.found.facts.at("common"); };
  for (const char* name :
       {"llama-core012/torch_dist-dopt-tp2-pp1-dp2", "mixtral-moe/torch_dist-tp1-pp2-ep2"}) {
    confuse_facts(subject_of(data / "megatron" / name), common, {});
  }
}

TEST(Confusion, FactsOfDeepSpeed) {
  for (const char* name : {"megds-bloom/tp2-pp2-dp2", "megds-bloom/tp1-pp1-dp1"}) {
    const Subject subject = subject_of(data / "deepspeed" / name);
    const auto model =
        std::find_if(subject.indices.begin(), subject.indices.end(),
                     [](const FileIndex& index) { return index.path.starts_with("mp_rank_00"); });
    ASSERT_NE(model, subject.indices.end());
    confuse_facts(subject, static_cast<std::size_t>(model - subject.indices.begin()),
                  {"/args", "/checkpoint_info", "/universal_checkpoint_info", "/lr_scheduler",
                   "/checkpoint_parallel_dimensions"});
  }
}

TEST(Confusion, FactsOfMerak) {
  for (const char* name : {"gpt2/era1-tp2-pp2", "llama/era2-tp2-pp2-bf16"}) {
    Subject subject = subject_of(data / "merak" / name);
    subject.found.facts["config"] = config_beside(data / "merak" / name);
    confuse_facts(subject, 0, {"/args"});
    confuse_config(subject);
  }
}

}  // namespace
}  // namespace reshard::formats
