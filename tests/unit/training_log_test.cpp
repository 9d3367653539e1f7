#include "logs/training_log.hpp"

#include <gtest/gtest.h>

#include <chrono>
#include <ctime>
#include <filesystem>

#include "core/checked_json.hpp"
#include "core/error.hpp"
#include "formats/file.hpp"
#include "logs/line.hpp"

namespace reshard::logs {
namespace {

namespace fs = std::filesystem;

using State = Save::State;

Json json_of(const std::optional<std::uint64_t>& number) {
  return number ? Json(*number) : Json(nullptr);
}

/// A start as the tables in tests/data/logs tell it; of the arguments those that the table has.
Json json_of(const Start& start, const Json& wanted) {
  Json saves = Json::array();
  for (const Save& save : start.saves) {
    const char* states[] = {"started", "scheduled", "done"};
    saves.push_back({{"iteration", save.iteration},
                     {"folder", save.folder},
                     {"format", save.format},
                     {"state", states[static_cast<int>(save.state)]},
                     {"tp", json_of(save.tp)},
                     {"pp", json_of(save.pp)}});
  }
  Json arguments = Json::object(), loaded;
  for (const auto& [name, value] : wanted.at("arguments").items()) {
    const auto found = start.arguments.find(name);
    arguments[name] = found == start.arguments.end() ? Json(nullptr) : Json(found->second);
  }
  if (start.loaded) {
    loaded = {{"iteration", start.loaded->iteration}, {"folder", start.loaded->folder}};
  }
  const auto command = wanted.at("command_begins").get<std::string>();
  return {{"command_begins", start.command.substr(0, command.size())},
          {"argument_count", start.arguments.size()},
          {"arguments", arguments},
          {"padded_vocab", json_of(start.padded_vocab)},
          {"loaded", loaded},
          {"saves", saves},
          {"iteration", json_of(start.iteration)},
          {"iterations", json_of(start.iterations)},
          {"end", start.end}};
}

const fs::path data = fs::path(RESHARD_TEST_DATA) / "logs";

std::vector<std::string> fixtures() {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(data)) {
    if (entry.path().extension() == ".out") names.push_back(entry.path().stem().string());
  }
  return names;
}

TEST(TrainingLog, RealLogsSayWhatTheirTablesSay) {
  const std::vector<std::string> names = fixtures();
  ASSERT_EQ(names.size(), 8U);
  for (const std::string& name : names) {
    const Json wanted =
        json_of_text(formats::read_text((data / (name + ".json")).string(), 1 << 20));
    const Log log = read_log_file((data / (name + ".out")).string());
    ASSERT_EQ(log.starts.size(), wanted.size()) << name;
    for (std::size_t i = 0; i < wanted.size(); ++i) {
      EXPECT_EQ(json_of(log.starts[i], wanted[i]), wanted[i]) << name;
      EXPECT_TRUE(log.starts[i].has_arguments) << name;
    }
    EXPECT_TRUE(log.notes.empty()) << name;
  }
}

TEST(TrainingLog, PiecesOfAnySizeSayTheSame) {
  for (const std::string& name : fixtures()) {
    const std::string text = formats::read_text((data / (name + ".out")).string(), 1 << 20);
    const Log whole = read_log(text);
    for (const std::size_t size : {1U, 7U, 4096U}) {
      Scanner scanner;
      for (std::size_t at = 0; at < text.size(); at += size) {
        scanner.add(std::string_view(text).substr(at, size));
      }
      const Log log = scanner.finish();
      ASSERT_EQ(log.starts.size(), whole.starts.size());
      EXPECT_EQ(log.lines, whole.lines);
      for (std::size_t i = 0; i < log.starts.size(); ++i) {
        EXPECT_EQ(log.starts[i].arguments, whole.starts[i].arguments);
        EXPECT_EQ(log.starts[i].saves, whole.starts[i].saves);
      }
    }
  }
}

/// Wherever a log is cut, what it says is a begin of what the whole log says.
TEST(TrainingLog, ACutLogSaysNothingElse) {
  const std::string text = formats::read_text((data / "fresh.out").string(), 1 << 20);
  const Log whole = read_log(text);
  ASSERT_EQ(whole.starts[0].saves.size(), 1U);
  for (std::size_t end = text.find("-- arguments --"); end <= text.size(); end += 61) {
    const Log log = read_log(std::string_view(text).substr(0, end));
    ASSERT_EQ(log.starts.size(), 1U);
    if (log.starts[0].has_arguments) {
      EXPECT_EQ(log.starts[0].arguments, whole.starts[0].arguments);
    }
    for (const Save& save : log.starts[0].saves) {
      EXPECT_EQ(save.folder, "/scratch/run3/checkpoints");
      EXPECT_EQ(save.iteration, 3U);
    }
  }
}

std::string block(const std::string& save) {
  return "------------------------ arguments ------------------------\n  save ....... " + save +
         "\n-------------------- end of arguments ---------------------\n";
}

std::vector<Save> saves_of(const std::string& text) {
  std::vector<Save> saves;
  for (const Start& start : read_log(text).starts) {
    saves.insert(saves.end(), start.saves.begin(), start.saves.end());
  }
  return saves;
}

TEST(TrainingLog, ReadsTheCheckpointLinesOfAllVersions) {
  struct Case {
    const char* text;
    Save wanted;
  };
  const Case cases[] = {
      {"saving checkpoint at iteration      20 to /a/b\n", {20, "/a/b", "", {}, {}}},
      {"[2026-01-01 10:00:00.123456] saving checkpoint at iteration      20 to /a/b in zarr "
       "format\n",
       {20, "/a/b", "zarr", {}, {}}},
      {"  successfully saved checkpoint from iteration      20 to /a/b\n",
       {20, "/a/b", "", {}, {}, State::done}},
      {"  successfully saved checkpoint at iteration 20 to /a/b\n",
       {20, "/a/b", "", {}, {}, State::done}},
      {"[t] successfully saved checkpoint from iteration      20 to /a/b [ t 1/2, gtp_remat 1/1, p "
       "1/4 ]\n",
       {20, "/a/b", "", 2, 4, State::done}},
      {"7: [n1:3]:  successfully saved checkpoint from iteration 20 to /a/b [ t 1/2, p 1/4 ]x y\n",
       {20, "/a/b", "", 2, 4, State::done}},
      {"  scheduled an async checkpoint save at iteration      20 to /a/b\n",
       {20, "/a/b", "", {}, {}, State::scheduled}},
      {"  scheduled an async checkpoint save at iteration      20 to /a/b\n"
       "Unfinalized async checkpoint saves. Finalizing them synchronously now.\n"
       "  successfully saved checkpoint from iteration      20 to /a/b [ t 1/1, p 1/1 ]\n",
       {20, "/a/b", "", 1, 1, State::done}},
      {"saving checkpoint at iteration      20 to /a b/c in torch format\n"
       "  successfully saved checkpoint from iteration      20 to /a b/c\n",
       {20, "/a b/c", "torch", {}, {}, State::done}},
      {"\rloading 5 %\r\x1b[32m  successfully saved checkpoint from iteration 20 to "
       "/a/b\x1b[0m\r\n",
       {20, "/a/b", "", {}, {}, State::done}}};
  for (const Case& c : cases) {
    const std::vector<Save> saves = saves_of(c.text);
    ASSERT_EQ(saves.size(), 1U) << c.text;
    EXPECT_EQ(saves[0], c.wanted) << c.text << saves[0].folder;
  }
}

TEST(TrainingLog, TellsNothingOfOtherLines) {
  for (const char* text :
       {"  successfully saved local checkpoint from iteration 20 to /a/b\n",
        "successfully saved checkpoint from iteration to /a/b\n",
        "successfully saved checkpoint from iteration 20\n",
        "successfully saved checkpoint from iteration 99999999999999999999 to /a\n",
        "saved checkpoint at iteration 20 to /a\n", "successfully saved checkpoint from itera"}) {
    EXPECT_TRUE(saves_of(text).empty()) << text;
  }
}

TEST(TrainingLog, AFolderWithBlanksIsTheArgument) {
  const std::string line = "successfully saved checkpoint from iteration 20 to /my runs/a glued\n";
  EXPECT_EQ(saves_of(block("/my runs/a") + line).at(0).folder, "/my runs/a");
  EXPECT_EQ(
      saves_of("=== CMD: ===\npretrain_gpt.py --save '/my runs/a' --bf16\n" + line).at(0).folder,
      "/my runs/a");
  EXPECT_EQ(saves_of(line).at(0).folder, "/my");  // nothing tells where it ends
}

TEST(TrainingLog, ALastLineThatIsCutMakesNoCheckpoint) {
  const std::string line = "successfully saved checkpoint from iteration 20 to /runs/a";
  const Log log = read_log(line);
  EXPECT_TRUE(saves_of(line).empty());
  ASSERT_EQ(log.notes.size(), 1U);
  EXPECT_NE(log.notes[0].find("is cut"), std::string::npos);
  EXPECT_EQ(saves_of(block("/runs/abc") + line).size(), 0U);
  EXPECT_EQ(saves_of(block("/runs/a") + line).at(0).state, State::done);
  EXPECT_EQ(saves_of(line + " [ t 1/2").at(0).tp, 2U);
}

TEST(TrainingLog, TheLastWholeBlockCounts) {
  const std::string cut =
      "------------------------ arguments ------------------------\n  save ... /c\n";
  const std::string done = "successfully saved checkpoint from iteration 1 to /x\n";
  const Log log = read_log(block("/a") + done + block("/b") + done + cut + done);
  ASSERT_EQ(log.starts.size(), 3U);
  EXPECT_EQ(log.arguments_at(0)->arguments.at("save"), "/a");
  EXPECT_EQ(log.arguments_at(1)->arguments.at("save"), "/b");
  EXPECT_EQ(log.arguments_at(2)->arguments.at("save"), "/b");
  ASSERT_EQ(log.notes.size(), 1U);
  EXPECT_EQ(read_log(done).arguments_at(0), nullptr);
}

TEST(TrainingLog, OtherWorkersDoNotWriteIntoABlock) {
  const Log log = read_log(
      "[n:0]:------------------------ arguments ------------------------\n"
      "[n:1]:  save ... /wrong\n[n:0]:  save ... /right\n[n:0]:  name_of_no_value .........\n"
      "[n:0]:    indented ... x\n[n:0]:  two_words a b\n"
      "[n:1]:-------------------- end of arguments ---------------------\n"
      "[n:0]:-------------------- end of arguments ---------------------\n");
  const std::map<std::string, std::string> wanted = {{"save", "/right"}, {"name_of_no_value", ""}};
  EXPECT_EQ(log.starts.at(0).arguments, wanted);
}

TEST(TrainingLog, CutsCommandLinesAsAShellDoes) {
  const auto flags = flags_of(
      "pretrain_gpt.py --data-path 14 /a 14 /b --bf16 --lr 1 --lr=-1e-5 --name 'a \"b' --x=\"1 2\" "
      "--json '{\"a\": \"--b\"}' --blank\\ in x\\\"y");
  const std::map<std::string, std::vector<std::string>> wanted = {
      {"data-path", {"14", "/a", "14", "/b"}},
      {"bf16", {}},
      {"lr", {"-1e-5"}},
      {"name", {"a \"b"}},
      {"x", {"1 2"}},
      {"json", {"{\"a\": \"--b\"}"}},
      {"blank in", {"x\"y"}}};
  EXPECT_EQ(flags, wanted);
}

TEST(TrainingLog, ArgumentsComeFromTheBlockElseFromTheCommand) {
  const std::string command =
      "=== CMD: ===\npretrain_gpt.py --save /c --tensor-model-parallel-size 4\n===\n";
  const Log both = read_log(command + block("/a"));
  ASSERT_EQ(both.starts.size(), 1U);
  EXPECT_EQ(argument(both.starts[0], "save"), "/a");
  EXPECT_EQ(argument(both.starts[0], "tensor_model_parallel_size"), std::nullopt);
  const Log one = read_log(command);
  EXPECT_EQ(argument(one.starts.at(0), "save"), "/c");
  EXPECT_EQ(argument(one.starts.at(0), "tensor_model_parallel_size"), "4");
  EXPECT_EQ(argument(read_log(block("None")).starts.at(0), "save"), std::nullopt);
}

TEST(TrainingLog, EndsAreTold) {
  struct Case {
    const char *line, *end;
  };
  for (const Case& c :
       {Case{"[exiting program at iteration 5] datetime: x\n", "exited"},
        Case{"*** JOB 1 ON n CANCELLED AT t DUE TO TIME LIMIT ***\n", "time limit"},
        Case{"*** JOB 1 ON n CANCELLED AT t DUE TO NODE FAILURE\n", "node failure"},
        Case{"*** JOB 1 ON n CANCELLED AT t ***\n", "cancelled"},
        Case{"Unable to load rng state from checkpoint /a, exiting ...\n", "layout refused"},
        Case{"nothing of it\n", ""}}) {
    EXPECT_EQ(read_log(std::string(c.line) + "x\n").starts.size(), c.end[0] == 0 ? 0U : 1U);
    for (const Start& start : read_log(c.line).starts) EXPECT_EQ(start.end, c.end);
  }
}

TEST(TrainingLog, HostileLogsAreBounded) {
  const auto refused = [](const std::string& text, std::size_t times) {
    Scanner scanner;
    try {
      for (std::size_t i = 0; i < times; ++i) scanner.add(text);
      static_cast<void>(scanner.finish());
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), Kind::input);
      return true;
    }
    return false;
  };
  EXPECT_TRUE(refused(block("/a"), 10'001));
  EXPECT_TRUE(refused("------------------------ arguments ------------------------\n  a .. " +
                          std::string(1 << 20, 'x') + "\n",
                      100));
  std::string many;
  for (int i = 0; i < 100'001; ++i) {
    many += "saving checkpoint at iteration " + std::to_string(i) + " to /a\n";
  }
  EXPECT_TRUE(refused(many, 1));
  // One line without end, and a block without end that says the same again and again.
  EXPECT_FALSE(refused(std::string(1 << 20, '\r') + "a", 50));
  EXPECT_FALSE(refused(std::string(1 << 20, 'y'), 50));
}

double cpu_seconds() {
  timespec time{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

/// 1,000 logs of 50 MB in total within seconds, and no line that makes it slow.
TEST(TrainingLog, ReadsFiftyMegabytesInSeconds) {
  const std::string real = formats::read_text((data / "requeued.out").string(), 1 << 20);
  const std::string hostile[] = {std::string(1 << 16, '\x1b') + "]",
                                 "[rank0]:[rank0]:",
                                 "saving checkpoint at iteration 1 to /a in torch [ t ",
                                 "\r\x1b[",
                                 "  a ....",
                                 "\x1b]x"};
  double begin = cpu_seconds();
  for (std::size_t bytes = 0; bytes < 50'000'000; bytes += real.size()) {
    EXPECT_EQ(read_log(real).starts.size(), 2U);
  }
  EXPECT_LT(cpu_seconds() - begin, 20);
  for (const std::string& part : hostile) {
    begin = cpu_seconds();
    Scanner scanner;
    for (std::size_t bytes = 0; bytes < 10'000'000; bytes += part.size()) scanner.add(part);
    static_cast<void>(scanner.finish());
    EXPECT_LT(cpu_seconds() - begin, 20) << part.substr(0, 20);
  }
}

}  // namespace
}  // namespace reshard::logs
